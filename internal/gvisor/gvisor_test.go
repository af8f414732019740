package gvisor

import "testing"

func TestIs(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n": true,
		"Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n":         true,
		"Linux version 6.1.0-44-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, " +
			"GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-09)\n": false,
		"": false,
	} {
		if got := is(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
