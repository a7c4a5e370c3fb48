package main

import (
	"context"
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finish compares what was acknowledged with what each server has and each watcher was told.
func finish(servers []*server, writers []*writer, watchers []*watcher) {
	writes, lists, observed := 0, 0, 0
	for _, kind := range kinds {
		wants := map[string]int{}
		for _, writer := range writers {
			if writer.kind == kind {
				maps.Copy(wants, writer.wants)
				writes += len(writer.done)
			}
		}
		for _, server := range servers {
			has := map[string]int{}
			found := must(server.objects(kind).List(context.Background(), metav1.ListOptions{}))
			for at := range found.Items {
				if object := &found.Items[at]; ours(object) {
					has[object.GetName()] = numberOf(object)
				}
			}
			compare("server "+server.name+" has of", kind, has, wants)
		}
		for _, watcher := range watchers {
			if watcher.kind == kind {
				compare("the watcher at server "+watcher.name+" knows of", kind, watcher.objects, wants)
				restarts := int(watcher.windows.Load() / 2)
				if watcher.lists > 1+restarts {
					fail("server %s: %s were listed %d times with %d restarts", watcher.name, kind, watcher.lists, restarts)
				}
				lists += watcher.lists
				observed += len(watcher.seen)
			}
		}
	}
	excused := servers[0].excused.Load() + servers[1].excused.Load()
	fmt.Printf("%d writes, %d observations, %d lists, %d errors during restarts\n", writes, observed, lists, excused)
}

func compare(who, kind string, has, wants map[string]int) {
	if !maps.Equal(has, wants) {
		fail("%s %s %v, not %v", who, kind, has, wants)
	}
}
