// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/viaduct-net/viaduct/control/model"
)

// Requests a second, and at once, that one node may make. Watches are one request for minutes; at start there are two
// for each kind, and statuses have a limit of their own below this one.
const (
	requestRate  = 50
	requestBurst = 100
)

// restConfig finds the API server.
func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if !errors.Is(err, rest.ErrNotInCluster) {
			return config, err
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return config, nil
}

// api has a client for each group and version of the kinds that are known; they share one connection.
type api struct {
	host   string // as errors name it
	http   *http.Client
	groups map[string]*rest.RESTClient // by apiVersion
}

func dial(config *rest.Config) (*api, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "viaduct-control"
	config.WarningHandler = rest.NoWarnings{}
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(requestRate, requestBurst)
	config.Timeout = 0 // watches last; client-go pings the connection
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	a := &api{host: config.Host, http: client, groups: map[string]*rest.RESTClient{}}
	if at, err := url.Parse(config.Host); err == nil && at.Host != "" {
		a.host = at.Host
	}
	for _, kind := range model.Kinds() {
		if a.groups[kind.APIVersion] != nil {
			continue
		}
		if a.groups[kind.APIVersion], err = a.group(config, kind.APIVersion); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *api) close() { a.http.CloseIdleConnections() }

func (a *api) group(config *rest.Config, apiVersion string) (*rest.RESTClient, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &gv, "/apis"
	if gv.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = codecs
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	if builtIn(apiVersion) { // custom resources have no protobuf
		c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	return rest.RESTClientForConfigAndClient(c, a.http)
}

// builtIn says whether the API server itself defines the group, and so it is always there.
func builtIn(apiVersion string) bool {
	return apiVersion == "v1" || apiVersion == discoveryv1.SchemeGroupVersion.String() ||
		apiVersion == networkingv1.SchemeGroupVersion.String()
}

// codecs know Kubernetes' kinds as the types of k8s.io/api, and all others as documents.
var codecs = func() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	utilruntime.Must(discoveryv1.AddToScheme(scheme))
	utilruntime.Must(networkingv1.AddToScheme(scheme))
	for _, kind := range model.Kinds() {
		if builtIn(kind.APIVersion) {
			continue
		}
		gv, err := schema.ParseGroupVersion(kind.APIVersion)
		utilruntime.Must(err)
		scheme.AddKnownTypeWithName(gv.WithKind(kind.Name), &document{})
		scheme.AddKnownTypeWithName(gv.WithKind(kind.Name+"List"), &documentList{})
		metav1.AddToGroupVersion(scheme, gv)
	}
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}()
