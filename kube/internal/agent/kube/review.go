package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// Reviewer asks the API server who somebody is and what they may (TokenReview, SubjectAccessReview). Make it with
// [NewReviewer].
type Reviewer struct {
	c *Client

	mu    sync.Mutex
	known map[[sha256.Size]byte]known // by the sum of the token
}

// known is what a TokenReview has said.
type known struct {
	user  authenticationv1.UserInfo
	until time.Time
}

// A token that was good is taken for so long, for so many of them: who asks, asks again.
const (
	knownFor = 30 * time.Second
	maxKnown = 1024
)

// NewReviewer makes a reviewer. It does not call the server.
func NewReviewer(c *Client) *Reviewer {
	return &Reviewer{c: c, known: map[[sha256.Size]byte]known{}}
}

var errNoToken = errors.New("no token")

// Allow is nil if who asks may have what is asked for. Else it is an [answers.Refusal].
func (r *Reviewer) Allow(req *http.Request, a answers.Access) error {
	token, found := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !found || token == "" || len(token) > maxSecret {
		return answers.Refuse(http.StatusUnauthorized, "give a token for the audience %s (Authorization: Bearer …); "+
			"kubectl create token NAME --audience %s makes one", answers.Audience, answers.Audience)
	}
	ctx, cancel := r.c.within(req.Context())
	defer cancel()
	user, err := r.user(ctx, token)
	switch {
	case errors.Is(err, errNoToken):
		return answers.Refuse(http.StatusUnauthorized, "the API server does not know this token, or it is not for the "+
			"audience %s: kubectl create token NAME --audience %s makes one that is", answers.Audience, answers.Audience)
	case err != nil:
		return answers.Refuse(http.StatusServiceUnavailable, "whose token this is could not be asked: %v", err)
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for name, values := range user.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: a.Verb, Namespace: a.Namespace, Name: a.Name,
			Resource: answers.Resource, Subresource: answers.Subresource},
	}}
	err = r.c.authorization.Post().Resource("subjectaccessreviews").Body(review).Do(ctx).Into(review)
	switch {
	case err != nil:
		return answers.Refuse(http.StatusServiceUnavailable, "what %s may could not be asked: %v", user.Username, err)
	case !review.Status.Allowed:
		where := "in namespace " + a.Namespace
		if a.Namespace == "" {
			where = "in all namespaces"
		}
		return answers.Refuse(http.StatusForbidden, "%s may not %s %s/%s %s: grant it by a Role (docs/agent.md)",
			user.Username, a.Verb, answers.Resource, answers.Subresource, where)
	}
	return nil
}

// user is whose token it is. The error is [errNoToken] if the API server does not take it for one that is for an agent.
func (r *Reviewer) user(ctx context.Context, token string) (authenticationv1.UserInfo, error) {
	sum, now := sha256.Sum256([]byte(token)), time.Now()
	r.mu.Lock()
	k, ok := r.known[sum]
	r.mu.Unlock()
	if ok && now.Before(k.until) {
		return k.user, nil
	}
	review := &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{answers.Audience}}}
	if err := r.c.authentication.Post().Resource("tokenreviews").Body(review).Do(ctx).Into(review); err != nil {
		return authenticationv1.UserInfo{}, err
	}
	// An API server without audiences says nothing of them: it takes its own for anybody's.
	forUs := false
	for _, audience := range review.Status.Audiences {
		forUs = forUs || audience == answers.Audience
	}
	if !review.Status.Authenticated || !forUs {
		return authenticationv1.UserInfo{}, errNoToken
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxKnown {
		clear(r.known)
	}
	r.known[sum] = known{review.Status.User, now.Add(knownFor)}
	return review.Status.User, nil
}
