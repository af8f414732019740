package injector

import (
	"context"
	"errors"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/mesh-intercept/intercept/kube/internal/injector/certs"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
)

// options are those of all controllers.
func options() controller.Options {
	unchecked := true // one process runs several in tests
	return controller.Options{SkipNameValidation: &unchecked}
}

// watchProfiles takes profiles as they change.
func (i *injector) watchProfiles() error {
	return builder.ControllerManagedBy(i.mgr).Named("profiles").For(&corev1.ConfigMap{}).WithOptions(options()).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			m := &corev1.ConfigMap{}
			switch err := i.mgr.GetCache().Get(ctx, r.NamespacedName, m); {
			case err == nil:
				i.takeProfile(ctx, m)
			case client.IgnoreNotFound(err) != nil:
				return reconcile.Result{}, err
			default:
				i.profiles.Delete(r.Name)
				i.log.InfoContext(ctx, "profile deleted", "profile", r.Name)
				if _, err := i.profiles.Get(i.Profile); errors.Is(err, profiles.ErrUnknown) {
					i.log.WarnContext(ctx, "pods that name no profile are refused", "err", err)
				}
			}
			return reconcile.Result{}, nil
		}))
}

// takeProfile takes the profile of a ConfigMap, if it is good.
func (i *injector) takeProfile(ctx context.Context, m *corev1.ConfigMap) {
	changed, err := i.profiles.Put(m.Name, m.Data)
	if !changed {
		return
	}
	if err != nil {
		i.log.WarnContext(ctx, "profile refused", "profile", m.Name, "err", err)
	} else {
		i.log.InfoContext(ctx, "profile taken", "profile", m.Name)
	}
	if i.leading.Load() { // one replica says it
		i.tellProfile(m, err)
	}
}

// tellProfile writes an event of a ConfigMap.
func (i *injector) tellProfile(m *corev1.ConfigMap, err error) {
	kind, reason, note := corev1.EventTypeNormal, "ProfileTaken", "New pods get this profile"
	if err != nil {
		kind, reason, note = corev1.EventTypeWarning, "ProfileRefused", "It is not used, and one before it stays in force: "+
			err.Error()
	}
	i.news.write(corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: m.Namespace, Name: m.Name, UID: m.UID},
		kind, reason, "Load", note)
}

// watchCertificates shows the certificate of the Secret, and as the leader keeps it.
func (i *injector) watchCertificates() error {
	if i.files != nil {
		return i.mgr.Add(i.files)
	}
	secret := types.NamespacedName{Namespace: i.Namespace, Name: i.CertSecret}
	err := builder.ControllerManagedBy(i.mgr).Named("certificate").For(&corev1.Secret{}).WithOptions(options()).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			s := &corev1.Secret{}
			if err := i.mgr.GetCache().Get(ctx, r.NamespacedName, s); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			if err := i.certs.Load(s.Data); err != nil {
				i.log.WarnContext(ctx, "the certificate before stays", "err", err)
			}
			return reconcile.Result{}, nil
		}))
	if err != nil {
		return err
	}
	host := i.Name + "." + i.Namespace + ".svc"
	keeper := &certs.Keeper{Client: i.mgr.GetClient(), Maker: certs.NewMaker(host, host+".cluster.local"), Secret: secret,
		Configs: i.Name, Log: i.log, Restored: i.meters.bundles.Inc, Now: time.Now}
	request := reconcile.Request{NamespacedName: secret}
	same := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{request}
	})
	return builder.ControllerManagedBy(i.mgr).Named("certificates").WithOptions(options()).
		Watches(&corev1.Secret{}, same).
		Watches(&admissionv1.MutatingWebhookConfiguration{}, same).
		Watches(&admissionv1.ValidatingWebhookConfiguration{}, same).
		WatchesRawSource(source.Channel(i.elected, same)). // there may be no Secret yet
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			if !i.leading.Load() {
				return reconcile.Result{}, nil
			}
			return keeper.Reconcile(ctx, r)
		}))
}
