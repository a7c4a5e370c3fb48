package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// seen is one number of one object; number 0 is its deletion.
type seen struct {
	object string
	number int
}

// watcher lists and watches all objects of one kind through one server, as Kubernetes' own controllers do: after a
// disconnection it goes on at the revision it has, and lists again if the server no longer has that revision.
type watcher struct {
	*server
	kind    string
	mu      sync.Mutex
	last    int64
	objects map[string]int
	seen    map[seen]bool
	// Revisions between a disconnection and the list after it, (from, to]: the server has told their result only.
	gaps  [][2]int64
	lists int
}

func newWatcher(server *server, kind string) *watcher {
	return &watcher{server: server, kind: kind, objects: map[string]int{}, seen: map[seen]bool{}}
}

var errGone = errors.New("the revision is gone")

func (w *watcher) run() {
	for {
		w.until("list", w.list)
		for {
			windows := w.windows.Load()
			err := w.watch()
			if errors.Is(err, errGone) {
				break
			}
			if !w.excuse(windows) {
				fail("server %s: watch of %s: %v", w.name, w.kind, err)
			}
			time.Sleep(pause)
		}
	}
}

func (w *watcher) until(what string, operation func() error) {
	for {
		windows := w.windows.Load()
		err := operation()
		if err == nil {
			return
		}
		if !w.excuse(windows) {
			fail("server %s: %s %s: %v", w.name, what, w.kind, err)
		}
		time.Sleep(pause)
	}
}

func (w *watcher) list() error {
	found, err := w.server.objects(w.kind).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := must(strconv.ParseInt(found.GetResourceVersion(), 10, 64))
	w.gaps = append(w.gaps, [2]int64{w.last, revision})
	w.last, w.lists = revision, w.lists+1
	listed := map[string]bool{}
	for at := range found.Items {
		if object := &found.Items[at]; ours(object) {
			listed[object.GetName()] = true
			w.note(object)
		}
	}
	for object := range w.objects {
		if !listed[object] {
			w.forget(object)
		}
	}
	return nil
}

// watch always ends with an error.
func (w *watcher) watch() error {
	options := metav1.ListOptions{ResourceVersion: strconv.FormatInt(w.last, 10), AllowWatchBookmarks: true}
	events, err := w.server.objects(w.kind).Watch(context.Background(), options)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return errGone
	}
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if event.Type == watch.Error {
			if err := apierrors.FromObject(event.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return errGone
			}
			return fmt.Errorf("event %v", event.Object)
		}
		w.take(event.Type, event.Object.(*unstructured.Unstructured))
	}
	return errors.New("ended")
}

func (w *watcher) take(what watch.EventType, object *unstructured.Unstructured) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision := revisionOf(object)
	if revision <= w.last && what != watch.Bookmark {
		fail("server %s: watch of %s: %s at %d after %d", w.name, w.kind, object.GetName(), revision, w.last)
	}
	w.last = max(w.last, revision)
	switch {
	case what == watch.Bookmark || !ours(object):
	case what == watch.Deleted:
		w.forget(object.GetName())
	default:
		w.note(object)
	}
}

func (w *watcher) note(object *unstructured.Unstructured) {
	name, number := object.GetName(), numberOf(object)
	if number < w.objects[name] {
		fail("server %s: watch of %s: %s went back from %d to %d", w.name, w.kind, name, w.objects[name], number)
	}
	w.objects[name] = number
	w.seen[seen{name, number}] = true
}

func (w *watcher) forget(object string) {
	delete(w.objects, object)
	w.seen[seen{object, 0}] = true
}

// ours: what the API server makes itself, such as kube-root-ca.crt, has no number.
func ours(object *unstructured.Unstructured) bool { return object.GetAnnotations()[number] != "" }

// waitFor waits until the watcher has seen these writes.
func (w *watcher) waitFor(writes []write) {
	for begun := time.Now(); ; time.Sleep(pause) {
		missed := w.missed(writes)
		if missed == nil {
			return
		}
		if time.Since(begun) > patience {
			fail("server %s: the watch of %s missed %+v", w.name, w.kind, *missed)
		}
	}
}

// missed gives a write that was not seen although no list took its place.
func (w *watcher) missed(writes []write) *write {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range writes {
		if !w.seen[seen{one.object, one.number}] && !w.skipped(one) {
			return &one
		}
	}
	return nil
}

// skipped: an object that was made and deleted, or changed and changed again, between a disconnection and the list
// after it, is not told.
func (w *watcher) skipped(one write) bool {
	if one.revision == 0 {
		// Its creation was not told either, or it would have been missed by the list.
		_, there := w.objects[one.object]
		return !there && w.lists > 1
	}
	for _, gap := range w.gaps {
		if gap[0] < one.revision && one.revision <= gap[1] {
			return true
		}
	}
	return false
}
