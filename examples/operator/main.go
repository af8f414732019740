// Command operator keeps the rules of network namespaces as files want them. It is an example: how an operator, or an
// agent on a node, calls the library. In place of objects of Kubernetes it has a folder with a file for each namespace.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	folder := flag.String("pods", "pods", "a folder: NAME.yaml is the configuration of the namespace NAME of ip netns")
	every := flag.Duration("every", time.Second, "how often to look")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o operator
	for tick := time.NewTicker(*every); ; {
		for _, line := range o.reconcile(ctx, read(*folder)) {
			log.Print(line)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return // the rules stay: without the operator pods are intercepted as before
		}
	}
}
