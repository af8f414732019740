package dataplane_test

import (
	"context"
	"log"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

func Example() {
	config := intercept.Default()
	config.DNS.Mode = intercept.DNSAll
	config.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pod := dataplane.Pod{NetNS: "/run/netns/pod"}
	result, err := pod.Apply(ctx, config)
	if err != nil {
		log.Fatal(err) // every error of config at once, or what the kernel refused and why
	}
	log.Printf("%s by %s: %s", result.Outcome, result.Backend, result.Reason)
}
