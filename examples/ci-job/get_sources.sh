# In place of what GitLab Runner writes to fetch the sources.
curl -s http://203.0.113.66/project.git
