package inject_test

import (
	"strings"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// TestEnvoy: the bootstrap of the profile is one: each field is known to Envoy's own
// types, also inside of extensions, and their validation finds nothing.
func TestEnvoy(t *testing.T) {
	var profile struct{ Files map[string]string }
	if err := yaml.UnmarshalStrict([]byte("files:"+strings.SplitN(inject.ShippedText("envoy"), "\nfiles:", 2)[1]),
		&profile); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.YAMLToJSONStrict([]byte(profile.Files["envoy.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrap.Bootstrap
	if err := protojson.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	clusters := map[string]bool{}
	for _, c := range b.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = true
	}
	extensions := 0
	var look func(m protoreflect.Message)
	look = func(m protoreflect.Message) {
		if packed, ok := m.Interface().(*anypb.Any); ok {
			extensions++
			inner, err := packed.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			if err := inner.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
				t.Errorf("%s: %v", proto.MessageName(inner), err)
			}
			if to, ok := inner.(interface{ GetCluster() string }); ok && !clusters[to.GetCluster()] {
				t.Errorf("there is no cluster %q", to.GetCluster())
			}
			look(inner.ProtoReflect())
			return
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.Message() == nil || f.IsMap():
			case f.IsList():
				for i := range v.List().Len() {
					look(v.List().Get(i).Message())
				}
			default:
				look(v.Message())
			}
			return true
		})
	}
	look(b.ProtoReflect())
	if extensions < 8 || len(clusters) < 3 {
		t.Errorf("%d extensions, %d clusters", extensions, len(clusters))
	}
}
