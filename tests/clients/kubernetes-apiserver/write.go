package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Objects of each writer that stay and are changed. Every fifth write makes one that the next write deletes.
	kept   = 30
	number = "strongroom.test/number"
)

// write is one acknowledged write: the number that it gave an object, and its revision (0: a deletion).
type write struct {
	object   string
	number   int
	revision int64
}

// writer writes growing numbers into objects of one kind, which are its own, through one server.
type writer struct {
	*server
	kind  string
	mu    sync.Mutex
	done  []write
	wants map[string]int // what is in etcd in the end
}

func newWriter(server *server, kind string) *writer {
	return &writer{server: server, kind: kind, wants: map[string]int{}}
}

func (w *writer) run(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		switch {
		case n <= kept:
			w.create(fmt.Sprintf("%s-%d", w.name, n), n)
		case n%5 == 0:
			w.create(fmt.Sprintf("%s-passing-%d", w.name, n), n)
		case n%5 == 1 && n > kept+1:
			w.delete(fmt.Sprintf("%s-passing-%d", w.name, n-1))
		default:
			w.change(fmt.Sprintf("%s-%d", w.name, n%kept+1), n)
		}
		time.Sleep(pause / 5)
	}
}

// try repeats an operation until the server acknowledges it. After an excused error its outcome is unknown: then
// an error is fine which says that it has happened.
func (w *writer) try(what, object string, happened func(error) bool, operation func() error) {
	unknown := false
	for {
		windows := w.windows.Load()
		err := operation()
		if err == nil || unknown && happened(err) {
			return
		}
		if !w.excuse(windows) {
			fail("server %s: %s %s/%s: %v", w.name, what, w.kind, object, err)
		}
		unknown = true
		time.Sleep(pause)
	}
}

func (w *writer) create(object string, n int) {
	revision := int64(1)
	w.try("create", object, apierrors.IsAlreadyExists, func() error {
		made, err := w.objects(w.kind).Create(context.Background(), content(w.kind, object, n), metav1.CreateOptions{})
		if err == nil {
			revision = revisionOf(made)
		}
		return err
	})
	w.acknowledge(write{object, n, revision})
}

func (w *writer) change(object string, n int) {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"%d"}}}`, number, n)
	var revision int64
	w.try("patch", object, func(error) bool { return false }, func() error {
		changed, err := w.objects(w.kind).Patch(context.Background(), object, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			revision = revisionOf(changed)
		}
		return err
	})
	w.acknowledge(write{object, n, revision})
}

func (w *writer) delete(object string) {
	now := int64(0)
	w.try("delete", object, apierrors.IsNotFound, func() error {
		return w.objects(w.kind).Delete(context.Background(), object, metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	w.acknowledge(write{object, 0, 0})
}

func (w *writer) acknowledge(done write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, done)
	w.wants[done.object] = done.number
	if done.revision == 0 {
		delete(w.wants, done.object)
	}
}

func (w *writer) snapshot() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[:len(w.done):len(w.done)]
}

// waitFor waits for so many further writes.
func (w *writer) waitFor(count int) {
	until := len(w.snapshot()) + count
	for begun := time.Now(); len(w.snapshot()) < until; time.Sleep(pause) {
		if time.Since(begun) > patience {
			fail("server %s: writing %s does not go on", w.name, w.kind)
		}
	}
}

func content(kind, object string, n int) *unstructured.Unstructured {
	fields := map[string]any{
		"apiVersion": "v1",
		"metadata": map[string]any{
			"name":        object,
			"annotations": map[string]any{number: strconv.Itoa(n)},
		},
	}
	switch kind {
	case "secrets":
		fields["kind"], fields["stringData"] = "Secret", map[string]any{"password": "plaintext of " + object}
	case "configmaps":
		fields["kind"], fields["data"] = "ConfigMap", map[string]any{"setting": "plaintext of " + object}
	case "pods":
		fields["kind"] = "Pod"
		container := map[string]any{"name": "main", "image": "plaintext/" + object}
		fields["spec"] = map[string]any{"containers": []any{container}}
	}
	return &unstructured.Unstructured{Object: fields}
}

func revisionOf(object *unstructured.Unstructured) int64 {
	return must(strconv.ParseInt(object.GetResourceVersion(), 10, 64))
}

func numberOf(object *unstructured.Unstructured) int {
	return must(strconv.Atoi(object.GetAnnotations()[number]))
}
