package permalink_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestThereAndBack: a link has all of a configuration, and nothing that a browser takes for something else.
func TestThereAndBack(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for range 500 {
		c := gen.Config(random)
		s := permalink.State{Config: permalink.Fields(c), View: "rules", Form: "yaml",
			Packet: &explain.Question{From: "outside", Dst: "[fd00::1]:443", Mark: "0x5", ToSelf: true, State: "invalid"}}
		if random.IntN(2) == 0 {
			s.Other = permalink.Fields(gen.Config(random))
		}
		url, err := s.URL()
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := s.URL(); again != url {
			t.Fatalf("%s, and then %s", url, again)
		}
		if strings.Count(url, "#") != 1 || strings.ContainsAny(url, " \"'<>`{}|\\^[]()*!;$+@?\n") {
			t.Errorf("%s", url)
		}
		got, err := permalink.Decode(url)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Fatalf("%s (-):\n%s", url, diff)
		}
		back := intercept.Default()
		for path, text := range got.Config {
			if err := decode.SetField(&back, path, text); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(decode.Settings(c, true), decode.Settings(back, true)); diff != "" {
			t.Fatalf("%s (-):\n%s", url, diff)
		}
	}
}

// TestOneLink: what is as it is anyway is not in a link, so that one case has one.
func TestOneLink(t *testing.T) {
	for _, q := range []explain.Question{
		{Dst: "10.1.2.3:443"},
		{From: "app", Dst: "10.1.2.3:443", Proto: "tcp", State: "new"},
	} {
		if text, err := (permalink.State{Packet: &q}).Encode(); err != nil || text != "1&packet.dst=10.1.2.3:443" {
			t.Errorf("%+v: %s, %v", q, text, err)
		}
	}
}

func TestNoLink(t *testing.T) {
	long := permalink.State{Config: map[string]string{"outbound.excludeCIDRs": strings.Repeat("10.0.0.0/8,", 5000)}}
	if _, err := long.Encode(); !errors.Is(err, permalink.ErrTooLong) {
		t.Error(err)
	}
	for _, s := range []permalink.State{
		{Config: map[string]string{"nothing": "1"}}, {Other: map[string]string{"dns": "all"}}, {View: "a b"}, {Form: "A"},
	} {
		if text, err := s.Encode(); err == nil {
			t.Errorf("%+v: %s", s, text)
		}
	}
	for text, want := range map[string]string{
		"":                                 `"" is not the version of a link that is known here, 1; a newer page may read it`,
		"2&x=y":                            `"2" is not the version of a link`,
		"1&dnss=all":                       "dnss: unknown key; did you mean dns?",
		"1&packet.dest=1":                  "packet.dest: unknown key; ",
		"1&dns=all&dns=off":                "dns: given twice",
		"1&dns":                            `"dns" is not key=value`,
		"1&dns=%2":                         `"dns=%2" is not key=value`,
		"1&view=<script>":                  `view: "<script>" is not a word`,
		"1&packet.to-self=maybe":           "packet.to-self: unknown key",
		"1&" + strings.Repeat("x", 40_000): "it has 40002 bytes; 32768 are the most",
	} {
		if _, err := permalink.Decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}

// FuzzDecode: any text is read or refused, and what is read is written in one way.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "1", "1&dns=all", "https://x/#1&other=&other.dns=off&packet.dst=10.1.2.3:443&view=x&form=y",
		"1&packet.to-self=true&outbound-exclude=udp%2010.0.0.0/8", "1&%zz", "1&=&=", "2", "1&dns=%C3%28"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := permalink.Decode(text)
		if err != nil {
			return
		}
		once, err := s.Encode()
		if errors.Is(err, permalink.ErrTooLong) {
			return // it was shorter before its bytes were escaped
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := permalink.Decode(once)
		if err != nil {
			t.Fatalf("%q: %v", once, err)
		}
		if twice, err := again.Encode(); err != nil || twice != once {
			t.Errorf("%q, and then %q, %v", once, twice, err)
		}
	})
}
