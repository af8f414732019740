package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	certutil "k8s.io/client-go/util/cert"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/answer"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/repair"
	"github.com/mesh-intercept/intercept/kube/internal/agent/sandbox"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// atOnce is how many questions about pods are answered at a time: each is a process, and the node has others to run.
const atOnce = 4

// followed is how many of those are answered at a time whose answers go on.
const followed = 4

// repairer compares pods with what they ask for.
func (a *Agent) repairer() repair.Repairer {
	return repair.Repairer{Conf: a.s.Conf, Find: repair.FromProc(sandbox.Finder{Proc: a.s.Proc}), DryRun: a.s.DryRun}
}

// door is where questions about pods come in.
type door struct {
	listener net.Listener
	server   *http.Server
	each     int // connections of one peer
}

// openDoors listens at the socket and the address for questions.
func (a *Agent) openDoors(ctx context.Context) (doors []door, err error) {
	defer func() {
		if err != nil {
			for _, d := range doors {
				err = errors.Join(err, d.listener.Close())
			}
		}
	}()
	s := answer.Server{Node: a.s.Node, Pods: a.pods.All, Ready: a.pods.Ready, Repairer: a.repairer(),
		Program: a.s.MeshInit, Slots: make(chan struct{}, atOnce), Follows: make(chan struct{}, followed),
		Count: a.metrics.Answer}
	open := func(l net.Listener, each int, allow func(*http.Request, answers.Access) error) {
		doors = append(doors, door{l, &http.Server{Handler: s.Handler(allow), ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout: 10 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute,
			MaxHeaderBytes: 64 << 10}, each})
	}
	if path := a.s.AnswerSocket; path != "" {
		l, err := cniwire.Listen(path)
		if err != nil {
			return doors, fmt.Errorf("answers: %w", err)
		}
		open(cniwire.OfRoot(l), 64, func(*http.Request, answers.Access) error { return nil })
	}
	if address := a.s.AnswerListen; address != "" {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return doors, fmt.Errorf("answers: %w", err)
		}
		// Who comes by the API server's port-forward has its word for who answers, and sends a token that nobody but an
		// agent takes: a certificate of the agent's own is enough.
		certificate, key, err := certutil.GenerateSelfSignedCertKey(answers.Audience, nil, []string{"localhost", a.s.Node})
		if err != nil {
			return doors, errors.Join(fmt.Errorf("answers: make a certificate: %w", err), l.Close())
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return doors, errors.Join(fmt.Errorf("answers: make a certificate: %w", err), l.Close())
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		open(tls.NewListener(l, config), 16, kube.NewReviewer(a.client).Allow)
	}
	return doors, nil
}
