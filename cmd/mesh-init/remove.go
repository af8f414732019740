package main

import "github.com/mesh-intercept/intercept/internal/cli"

func removeVerb() verb {
	return verb{cli.Verb{
		Name: "remove", Does: "take the rules out",
		Also:  []string{"delete", "uninstall", "clean", "cleanup", "clear", "flush", "reset", "stop"},
		More:  "Other people's rules stay. It is no error if there are none of ours.",
		Flags: kernelFlags,
	}, job.remove}
}

func (j job) remove() error {
	removed, err := j.plane.Remove(j.ctx)
	if err != nil {
		return err
	}
	return j.print(struct {
		Removed bool `json:"removed"`
	}{removed}, func() string {
		if removed {
			return "removed\n"
		}
		return "nothing to remove\n"
	})
}
