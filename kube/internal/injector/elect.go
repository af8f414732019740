package injector

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// elect takes part in elections until ctx is done. The library's manager would end with the
// lease, and with it the webhook: as when the API server was away for a while.
func (i *injector) elect(ctx context.Context) error {
	clients, err := kubernetes.NewForConfigAndClient(i.API, i.mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	// Two processes of one host are two.
	who := resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("%s_%s", host, uuid.NewUUID())}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, i.Namespace, i.Name, clients.CoreV1(),
		clients.CoordinationV1(), who)
	if err != nil {
		return err
	}
	lease := cmp.Or(i.Lease, 15*time.Second)
	for ctx.Err() == nil {
		var leads sync.WaitGroup
		leads.Add(1)
		once := sync.OnceFunc(leads.Done)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{Lock: lock, Name: i.Name,
			LeaseDuration: lease, RenewDeadline: lease * 2 / 3, RetryPeriod: lease * 2 / 15, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					defer once()
					i.lead(ctx)
				},
				OnStoppedLeading: func() {},
			}})
		if err != nil {
			return err
		}
		elector.Run(ctx)
		if !elector.IsLeader() && ctx.Err() != nil {
			once() // it may never have led
		}
		leads.Wait()
	}
	return nil
}

// lead is what the leader alone does, until ctx is done.
func (i *injector) lead(ctx context.Context) {
	i.log.InfoContext(ctx, "this replica leads")
	i.leading.Store(true)
	defer i.leading.Store(false)
	select {
	case i.elected <- event.GenericEvent{Object: &corev1.Secret{}}:
	default: // it is awake
	}
	for name, bad := range i.profiles.Bad() { // nobody else may have told of them
		m := &corev1.ConfigMap{}
		if err := i.mgr.GetCache().Get(ctx, types.NamespacedName{Namespace: i.Namespace, Name: name}, m); err == nil {
			i.tellProfile(m, bad)
		}
	}
	i.sweeper.Run(ctx)
	i.log.InfoContext(context.WithoutCancel(ctx), "this replica does not lead any more")
}
