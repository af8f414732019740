package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// ErrNone reports that there is no certificate yet.
var ErrNone = errors.New("there is no certificate yet")

// Server has the certificate that is shown. The zero Server has none. It may be used
// from several goroutines.
type Server struct {
	cert atomic.Pointer[tls.Certificate]
}

// Get is for [tls.Config.GetCertificate].
func (s *Server) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.cert.Load(); c != nil {
		return c, nil
	}
	return nil, ErrNone
}

// Load takes the certificate of a Secret. One that cannot be read is an error, and what
// was shown before stays.
func (s *Server) Load(data map[string][]byte) error {
	c, err := tls.X509KeyPair(data[Cert], data[Key])
	if err != nil {
		return fmt.Errorf("the certificate in the Secret: %w", err)
	}
	s.cert.Store(&c)
	return nil
}

// Keeper keeps the Secret and the CA bundles as they are to be. It is for the leader.
type Keeper struct {
	Client client.Client
	Maker  Maker
	Secret types.NamespacedName
	// Configs is the name of the mutating and of the validating webhook configuration.
	Configs string
	Log     *slog.Logger
	// Restored is called for each bundle that somebody has changed, and that is put back.
	Restored func()
	// Now is the time.
	Now func() time.Time
}

// Reconcile implements [reconcile.Reconciler].
func (k *Keeper) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	bundle, err := k.keepSecret(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	err = errors.Join(k.keepConfig(ctx, &admission.MutatingWebhookConfiguration{}, bundle),
		k.keepConfig(ctx, &admission.ValidatingWebhookConfiguration{}, bundle))
	return reconcile.Result{RequeueAfter: Check}, err
}

// keepSecret sees to the Secret, and returns its bundle.
func (k *Keeper) keepSecret(ctx context.Context) ([]byte, error) {
	secret := &corev1.Secret{}
	err := k.Client.Get(ctx, k.Secret, secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return nil, err
	}
	data, made, err := k.Maker.Next(secret.Data, k.Now())
	if err != nil {
		return nil, err
	}
	if !missing && maps.EqualFunc(data, secret.Data, bytes.Equal) {
		return data[Bundle], nil
	}
	fresh := secret.DeepCopy()
	fresh.Data = data
	if missing {
		fresh.Namespace, fresh.Name, fresh.Type = k.Secret.Namespace, k.Secret.Name, corev1.SecretTypeOpaque
		err = k.Client.Create(ctx, fresh)
	} else {
		err = k.Client.Update(ctx, fresh) // of the version that was read
	}
	if err != nil {
		return nil, fmt.Errorf("writing Secret %s: %w", k.Secret, err)
	}
	k.Log.InfoContext(ctx, "certificates written", "made", made)
	return data[Bundle], nil
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// keepConfig puts the bundle into a webhook configuration, if there is one. Everything
// else of it is somebody else's.
func (k *Keeper) keepConfig(ctx context.Context, config client.Object, bundle []byte) error {
	if err := k.Client.Get(ctx, types.NamespacedName{Name: k.Configs}, config); err != nil {
		return client.IgnoreNotFound(err)
	}
	var patch []operation
	was := 0 // how many had another
	add := func(i int, name string, c admission.WebhookClientConfig) {
		if bytes.Equal(c.CABundle, bundle) {
			return
		}
		if len(c.CABundle) > 0 {
			was++
		}
		at := fmt.Sprintf("/webhooks/%d/", i)
		patch = append(patch, operation{"test", at + "name", name}, operation{"add", at + "clientConfig/caBundle", bundle})
	}
	kind := "mutating"
	switch config := config.(type) {
	case *admission.MutatingWebhookConfiguration:
		for i, w := range config.Webhooks {
			add(i, w.Name, w.ClientConfig)
		}
	case *admission.ValidatingWebhookConfiguration:
		kind = "validating"
		for i, w := range config.Webhooks {
			add(i, w.Name, w.ClientConfig)
		}
	}
	if len(patch) == 0 {
		return nil
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	if err := k.Client.Patch(ctx, config, client.RawPatch(types.JSONPatchType, text)); err != nil {
		return fmt.Errorf("the CA bundle of the %s webhook configuration %s: %w", kind, k.Configs, err)
	}
	k.Log.InfoContext(ctx, "CA bundle written", "kind", kind, "webhooks", len(patch)/2, "had another", was)
	k.Restored()
	return nil
}
