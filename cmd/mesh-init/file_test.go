package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// FuzzArguments holds that no command line or environment makes the command
// panic or touch anything without being asked, and that it always says what
// is wrong.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{
		"explain\n--dst\n10.0.0.1:80", "render\n--dns=all\nMESH_DNS_PORT=5", "--outbound-exclude\n[::1]:53 uid=1",
		"check\n-h", "--\n-x",
		"explain\n--from=outside\n--dst=[fe80::1%eth0]:1", "explain\n--proto=icmp\n--dst=::1", "version\n--output=json",
		"version\n-oyaml\n--format=json", "help\n\x00",
		"explain\n--state=established\n--dst=1.2.3.4:5\n--src=::ffff:1.2.3.4", "MESH_=1", "--=", "render\nMESH_0",
		"explain\n--to-self\n--dst=10.0.0.1:80\n--from=proxy\n--proxy-uid=none",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var args, env []string
		for word := range strings.SplitSeq(text, "\n") {
			if strings.HasPrefix(word, decode.EnvPrefix) {
				env = append(env, word)
			} else {
				args = append(args, word)
			}
		}
		// Files of this machine are no part of it.
		if strings.Contains(text, "config") || strings.Contains(text, "CONFIG") || strings.Contains(text, "resolv") ||
			strings.Contains(text, "RESOLV") {
			return
		}
		r := invokeOn(t, fakePlane{}, "", env, args...)
		lines := slices.DeleteFunc(r.lines(), func(line string) bool {
			return line == "" || strings.Contains(line, " is deprecated: ") ||
				strings.Contains(line, "passed over, since it ")
		})
		// Without a verb there is help before the error.
		if (r.code == cli.ExitDone) != (len(lines) == 0) {
			t.Fatalf("exit code %d, and standard error %q", r.code, r.stderr)
		}
		for _, line := range lines {
			if len(args) > 0 && (!strings.HasPrefix(line, "mesh-init: ") && !strings.HasPrefix(line, "{") ||
				!strings.HasSuffix(r.stderr, "\n")) {
				t.Fatalf("standard error %q", r.stderr)
			}
		}
	})
}
