// The tests of Kubernetes' own storage, which its API server keeps everything in, against the etcd at
// STRONGROOM_TEST_ENDPOINT: a proxy's. STRONGROOM_TEST_RANGE_STREAM=1 lists by RangeStream, which etcd 3.7 has.
package kubernetes

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"
)

var scheme = runtime.NewScheme()

func init() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
}

// All that the API server stores begins so: in etcd it must not be found.
const marker = "plaintext!"

// switched lets a test change the transformer of a store that runs.
type switched struct {
	now atomic.Pointer[value.Transformer]
}

func (s *switched) TransformFromStorage(ctx context.Context, data []byte, of value.Context) ([]byte, bool, error) {
	return (*s.now.Load()).TransformFromStorage(ctx, data, of)
}

func (s *switched) TransformToStorage(ctx context.Context, data []byte, of value.Context) ([]byte, error) {
	return (*s.now.Load()).TransformToStorage(ctx, data, of)
}

func (s *switched) put(transformer value.Transformer) { s.now.Store(&transformer) }

type store struct {
	storage.Interface
	client      *kubernetes.Client
	recorder    *storagetesting.KVRecorder
	lists       *storagetesting.KubernetesRecorder
	codec       runtime.Codec
	transformer *switched
	original    *storagetesting.PrefixTransformer
}

func (s *store) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	changed := *s.original
	s.transformer.put(modify(&changed))
	return func() { s.transformer.put(s.original) }
}

// valid looks at what is stored under a key, as a client of the proxy sees it.
func (s *store) valid(ctx context.Context, t *testing.T, key string) {
	got, err := s.client.KV.Get(ctx, key)
	if err != nil || len(got.Kvs) == 0 {
		t.Fatalf("%s: %v, %v", key, got, err)
	}
	decoded, err := runtime.Decode(s.codec, got.Kvs[0].Value[len(marker):])
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	if pod := decoded.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("%s: stored with its version or link", key)
	}
}

func (s *store) compact(ctx context.Context, t *testing.T, version string) {
	revision, err := storage.APIObjectVersioner{}.ParseResourceVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	// It compacts only if it is told which of its compactions was the last.
	last, err := s.client.Client.Get(ctx, "compact_rev_key")
	if err != nil {
		t.Fatal(err)
	}
	count := int64(0)
	if len(last.Kvs) > 0 {
		count = last.Kvs[0].Version
	}
	if _, _, _, err := etcd3.Compact(ctx, s.client.Client, count, int64(revision)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if s.CompactRevision() == int64(revision) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the compaction is not seen")
}

func (s *store) increase(ctx context.Context, t *testing.T) int64 {
	put, err := s.client.KV.Put(ctx, "increaseRV", marker)
	if err != nil {
		t.Fatal(err)
	}
	return put.Header.Revision
}

// fresh is a store without any keys.
func fresh(t *testing.T) (context.Context, *store) {
	t.Helper()
	rangeStream := os.Getenv("STRONGROOM_TEST_RANGE_STREAM") == "1"
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.EtcdRangeStream, rangeStream)
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ListFromCacheSnapshot, true)
	client, err := kubernetes.New(clientv3.Config{
		Endpoints: []string{os.Getenv("STRONGROOM_TEST_ENDPOINT")}, DialTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	ctx := context.Background()
	if _, err := client.KV.Delete(ctx, "\x00", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	s := &store{client: client, transformer: &switched{}}
	s.lists = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	s.recorder = storagetesting.NewKVRecorder(client.KV, s.lists)
	client.KV, client.Kubernetes = s.recorder, s.lists
	s.codec = apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)
	s.original = storagetesting.NewPrefixTransformer([]byte(marker), false)
	s.transformer.put(s.original)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	versioner := storage.APIObjectVersioner{}
	made, err := etcd3.New(client, compactor, s.codec,
		func() runtime.Object { return &example.Pod{} }, func() runtime.Object { return &example.PodList{} },
		"", "/pods/", schema.GroupResource{Resource: "pods"}, s.transformer, leases,
		etcd3.NewDefaultDecoder(s.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	s.Interface = made
	return ctx, s
}

// TestPlaintext makes sure that the marker, by which the values are looked for in etcd, is really there.
func TestPlaintext(t *testing.T) {
	ctx, s := fresh(t)
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kept"}}
	if err := s.Create(ctx, "/pods/ns/kept", pod, nil, 0); err != nil {
		t.Fatal(err)
	}
	got, err := s.client.KV.Get(ctx, "/pods/ns/kept")
	if err != nil || string(got.Kvs[0].Value[:len(marker)]) != marker {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestStorage(t *testing.T) {
	for name, run := range map[string]func(context.Context, *testing.T, storage.Interface){
		"CreateWithTTL":                  storagetesting.RunTestCreateWithTTL,
		"CreateWithKeyExist":             storagetesting.RunTestCreateWithKeyExist,
		"Get":                            storagetesting.RunTestGet,
		"UnconditionalDelete":            storagetesting.RunTestUnconditionalDelete,
		"ConditionalDelete":              storagetesting.RunTestConditionalDelete,
		"DeleteWithSuggestion":           storagetesting.RunTestDeleteWithSuggestion,
		"DeleteWithSuggestionConflict":   storagetesting.RunTestDeleteWithSuggestionAndConflict,
		"DeleteWithSuggestionOfDeleted":  storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
		"ValidateDeletion":               storagetesting.RunTestValidateDeletionWithSuggestion,
		"ValidateDeletionOnlySuggestion": storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
		"DeleteWithConflict":             storagetesting.RunTestDeleteWithConflict,
		"PreconditionalDelete":           storagetesting.RunTestPreconditionalDeleteWithSuggestion,
		"PreconditionalDeletePass":       storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
		"ListPaging":                     storagetesting.RunTestListPaging,
		"GetListRecursivePrefix":         storagetesting.RunTestGetListRecursivePrefix,
		"NamespaceScopedList":            storagetesting.RunTestNamespaceScopedList,
		"GuaranteedUpdateWithTTL":        storagetesting.RunTestGuaranteedUpdateWithTTL,
		"GuaranteedUpdateWithConflict":   storagetesting.RunTestGuaranteedUpdateWithConflict,
		"GuaranteedUpdateSuggestion":     storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
		"KeySchema":                      storagetesting.RunTestKeySchema,
		"Watch":                          storagetesting.RunTestWatch,
		"ClusterScopedWatch":             storagetesting.RunTestClusterScopedWatch,
		"NamespaceScopedWatch":           storagetesting.RunTestNamespaceScopedWatch,
		"DeleteTriggerWatch":             storagetesting.RunTestDeleteTriggerWatch,
		"WatchFromNonZero":               storagetesting.RunTestWatchFromNonZero,
		"DelayedWatchDelivery":           storagetesting.RunTestDelayedWatchDelivery,
		"WatchContextCancel":             storagetesting.RunTestWatchContextCancel,
		"WatcherTimeout":                 storagetesting.RunTestWatcherTimeout,
		"WatchDeleteEventLatestVersion":  storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
		"WatchInitializationSignal":      storagetesting.RunTestWatchInitializationSignal,
		"SendInitialEvents":              storagetesting.RunSendInitialEventsBackwardCompatibility,
		"WatchSemantics":                 storagetesting.RunWatchSemantics,
		"WatchSemanticInitialEvents":     storagetesting.RunWatchSemanticInitialEventsExtended,
		"WatchListMatchSingle":           storagetesting.RunWatchListMatchSingle,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := fresh(t)
			run(ctx, t, s)
		})
	}
	for name, run := range map[string]func(context.Context, *testing.T, storagetesting.InterfaceWithPrefixTransformer){
		"GuaranteedUpdateChecksStoredData": storagetesting.RunTestGuaranteedUpdateChecksStoredData,
		"TransformationFailure":            storagetesting.RunTestTransformationFailure,
		"ListResourceVersionMatch":         storagetesting.RunTestListResourceVersionMatch,
		"WatchError":                       storagetesting.RunTestWatchError,
		"WatchErrorIsBlocking":             storagetesting.RunWatchErrorIsBlockingFurtherEvents,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := fresh(t)
			run(ctx, t, s)
		})
	}
	for name, run := range map[string]func(context.Context, *testing.T, *store){
		"Create": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestCreate(ctx, t, s, s.valid)
		},
		"GuaranteedUpdate": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.valid)
		},
		"GetListNonRecursive": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, s)
		},
		"ConsistentList": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestConsistentList(ctx, t, s, s.increase, false, true, false)
		},
		"ListContinuation": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestListContinuation(ctx, t, s, anyCalls)
		},
		"ListPaginationRareObject": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, s, anyCalls)
		},
		"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s, anyCalls)
		},
		"Stats": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestStats(ctx, t, s, s.codec, s.transformer, false)
		},
		// The test's etcd tells progress every second.
		"ProgressNotify": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunOptionalTestProgressNotify(ctx, t, s, s.increase)
		},
		"WatchDispatchBookmarkEvents": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := fresh(t)
			run(ctx, t, s)
		})
	}
}

// TestStorageCompacted comes last: others look at revision 1.
func TestStorageCompacted(t *testing.T) {
	for name, run := range map[string]func(context.Context, *testing.T, *store){
		"List": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestList(ctx, t, s, s.compact, false, s.lists)
		},
		"CompactRevision": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestCompactRevision(ctx, t, s, s.increase, s.compact)
		},
		"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s, s.compact)
		},
		"WatchFromZero": func(ctx context.Context, t *testing.T, s *store) {
			storagetesting.RunTestWatchFromZero(ctx, t, s, s.compact)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, s := fresh(t)
			run(ctx, t, s)
		})
	}
}

// anyCalls accepts however many calls a list takes: that is Kubernetes' own to count.
func anyCalls(*testing.T, uint64, uint64) {}
