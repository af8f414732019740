package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"slices"
	"testing"
	"time"
)

const host = "mesh-injector.mesh-injector.svc"

// trusts reports whether a client that trusts a bundle takes a server's certificate.
func trusts(t *testing.T, bundle, data map[string][]byte, at time.Time) bool {
	t.Helper()
	pair, err := tls.X509KeyPair(data[Cert], data[Key])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle[Bundle])
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err == nil
}

// TestLife is two years of daily looks. API servers that have the bundle of yesterday
// trust the server that has the certificate of now, and the other way round.
func TestLife(t *testing.T) {
	m := NewMaker(host)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var all []map[string][]byte
	data, made := map[string][]byte(nil), map[string]int{}
	for range 2 * 365 {
		now = now.Add(day)
		next, what, err := m.Next(data, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range what {
			made[w]++
		}
		again, what, err := m.Next(next, now)
		if err != nil || len(what) > 0 || !maps.EqualFunc(next, again, bytes.Equal) {
			t.Fatalf("%v: a second look makes %q, %v", now, what, err)
		}
		data = next
		if all = append(all, data); len(all) > 3 {
			all = all[1:]
		}
		for _, other := range all {
			if !trusts(t, other, data, now) || !trusts(t, data, other, now) {
				t.Fatalf("%v: a client or a server of two days ago does not fit", now)
			}
		}
		if n := bytes.Count(data[Bundle], []byte("BEGIN")); n > 3 {
			t.Fatalf("%v: %d authorities are trusted", now, n)
		}
	}
	if made["the next certificate authority"] != 2 || made["another certificate authority signs"] != 3 ||
		made["the server's certificate"] < 12 {
		t.Error(made)
	}
}

// TestBroken: what somebody has spoiled is made anew, and former authorities stay trusted.
func TestBroken(t *testing.T) {
	m := NewMaker(host, "other.example")
	now := time.Now()
	good, _, err := m.Next(nil, now)
	if err != nil || !trusts(t, good, good, now) {
		t.Fatal(err)
	}
	elsewhere, _, err := NewMaker("elsewhere").Next(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(good)) {
		for name, text := range map[string][]byte{"empty": nil, "no PEM": []byte("x"), "of another": elsewhere[key],
			"cut off": good[key][:len(good[key])/2]} {
			data := maps.Clone(good)
			data[key], data["somebody's"] = text, []byte("stays")
			next, what, err := m.Next(data, now)
			if err != nil || len(what) == 0 || !trusts(t, next, next, now) || string(next["somebody's"]) != "stays" {
				t.Errorf("%s %s: made %q, %v", key, name, what, err)
			}
			if key != Bundle && !trusts(t, next, good, now) {
				t.Errorf("%s %s: the authority before is no longer trusted", key, name)
			}
		}
	}
}

func TestServer(t *testing.T) {
	var s Server
	if _, err := s.Get(nil); err == nil {
		t.Error("a certificate of nothing")
	}
	data, _, err := NewMaker(host).Next(nil, time.Now())
	if err != nil || s.Load(data) != nil {
		t.Fatal(err)
	}
	if err := s.Load(nil); err == nil {
		t.Error("nothing can be loaded")
	}
	if c, err := s.Get(nil); err != nil || c.Leaf.DNSNames[0] != host {
		t.Error(c, err)
	}
}
