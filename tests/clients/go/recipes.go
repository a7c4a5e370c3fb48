package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

// recipes ENDPOINT: what etcd's own client library builds on etcd. Prints a line for each result, the same in every run.
func recipes(args []string) {
	client, other := connect(args[0]), connect(args[0])
	for _, recipe := range []func(context.Context, *clientv3.Client, *clientv3.Client){
		mutex, election, stm, leases, leased, namespaced, mirrored, named, ordered, watched, ranges, transactions,
	} {
		recipe(within(20*time.Second), client, other)
	}
}

func values(response *clientv3.GetResponse, err error) string {
	must(response, err)
	parts := []string{fmt.Sprint(response.Count, response.More)}
	for _, kv := range response.Kvs {
		parts = append(parts, fmt.Sprintf("%s=%s/%d", kv.Key, kv.Value, kv.Version))
	}
	return strings.Join(parts, " ")
}

func session(client *clientv3.Client) *concurrency.Session {
	return must(concurrency.NewSession(client, concurrency.WithTTL(30)))
}

func mutex(ctx context.Context, client, other *clientv3.Client) {
	one, two := session(client), session(other)
	first, second := concurrency.NewMutex(one, "go/mutex"), concurrency.NewMutex(two, "go/mutex")
	check(first.Lock(ctx))
	fmt.Println("mutex taken:", errors.Is(second.TryLock(ctx), concurrency.ErrLocked))
	waiting := make(chan error)
	go func() { waiting <- second.Lock(ctx) }()
	time.Sleep(100 * time.Millisecond)
	check(first.Unlock(ctx))
	check(<-waiting)
	// Only who holds the lock may write: the recipe of `IsOwner`.
	written := must(client.Txn(ctx).If(second.IsOwner()).Then(clientv3.OpPut("go/owned", "plaintext-owned")).Commit())
	refused := must(client.Txn(ctx).If(first.IsOwner()).Then(clientv3.OpPut("go/owned", "no")).Commit())
	fmt.Println("mutex owners:", written.Succeeded, refused.Succeeded)
	check(second.Unlock(ctx))
	check(one.Close())
	check(two.Close())
	fmt.Println("mutex after:", values(client.Get(ctx, "go/mutex", clientv3.WithPrefix())))
}

func election(ctx context.Context, client, other *clientv3.Client) {
	one, two := session(client), session(other)
	first, second := concurrency.NewElection(one, "go/office"), concurrency.NewElection(two, "go/office")
	check(first.Campaign(ctx, "plaintext-first"))
	observed := second.Observe(ctx)
	observe := func() string { got := <-observed; return string(got.Kvs[0].Value) }
	fmt.Println("election:", observe())
	check(first.Proclaim(ctx, "plaintext-proclaimed"))
	fmt.Println("election:", observe())
	won := make(chan error)
	go func() { won <- second.Campaign(ctx, "plaintext-second") }()
	time.Sleep(100 * time.Millisecond)
	check(first.Resign(ctx))
	check(<-won)
	fmt.Println("election:", observe(), string(must(first.Leader(ctx)).Kvs[0].Value))
	resumed := concurrency.ResumeElection(two, "go/office", second.Key(), second.Rev())
	check(resumed.Proclaim(ctx, "plaintext-resumed"))
	fmt.Println("election:", observe())
	check(one.Close())
	check(two.Close())
	_, err := first.Leader(ctx)
	fmt.Println("election:", err)
}

func stm(ctx context.Context, client, other *clientv3.Client) {
	for i, name := range []string{"go/stm/a", "go/stm/b"} {
		must(client.Put(ctx, name, strconv.Itoa(100*i+100)))
	}
	var wait sync.WaitGroup
	for i := range 40 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			levels := []concurrency.Isolation{
				concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads,
			}
			move := func(stm concurrency.STM) error {
				from, to := must(strconv.Atoi(stm.Get("go/stm/a"))), must(strconv.Atoi(stm.Get("go/stm/b")))
				stm.Put("go/stm/a", strconv.Itoa(from-1))
				stm.Put("go/stm/b", strconv.Itoa(to+1))
				stm.Put("go/stm/moved", "plaintext-moved")
				return nil
			}
			who := []*clientv3.Client{client, other}[i%2]
			must(concurrency.NewSTM(who, move, concurrency.WithIsolation(levels[i%3]), concurrency.WithAbortContext(ctx)))
		}()
	}
	wait.Wait()
	fmt.Println("stm:", values(client.Get(ctx, "go/stm/", clientv3.WithPrefix())))
	must(concurrency.NewSTM(client, func(stm concurrency.STM) error { stm.Del("go/stm/a"); return nil }))
	fmt.Println("stm:", values(client.Get(ctx, "go/stm/a")))
}

func leases(ctx context.Context, client, _ *clientv3.Client) {
	granted := must(client.Grant(ctx, 60))
	must(client.Put(ctx, "go/lease/a", "plaintext-leased", clientv3.WithLease(granted.ID)))
	must(client.Put(ctx, "go/lease/a", "", clientv3.WithIgnoreValue(), clientv3.WithLease(granted.ID)))
	live := must(client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys()))
	once := must(client.KeepAliveOnce(ctx, granted.ID))
	alive := <-must(client.KeepAlive(ctx, granted.ID))
	fmt.Printf("lease: %d %s %d %d %v\n", live.GrantedTTL, live.Keys, once.TTL, alive.TTL, alive.ID == granted.ID)
	fmt.Println("lease:", values(client.Get(ctx, "go/lease/a")))
	must(client.Revoke(ctx, granted.ID))
	fmt.Println("lease:", values(client.Get(ctx, "go/lease/a")))
	gone := must(client.TimeToLive(ctx, granted.ID))
	_, err := client.KeepAliveOnce(ctx, granted.ID)
	_, revoked := client.Revoke(ctx, granted.ID)
	fmt.Println("lease:", gone.TTL, err, "|", revoked)
	empty := must(client.Grant(ctx, 60))
	fmt.Println("lease:", len(must(client.TimeToLive(ctx, empty.ID, clientv3.WithAttachedKeys())).Keys))
	must(client.Revoke(ctx, empty.ID))
}

func leased(ctx context.Context, client, other *clientv3.Client) {
	one, closeOne, err := leasing.NewKV(client, "go/leasing/")
	check(err)
	two, closeTwo, err := leasing.NewKV(other, "go/leasing/")
	check(err)
	must(one.Put(ctx, "go/shared", "plaintext-a"))
	fmt.Println("leasing:", values(one.Get(ctx, "go/shared")))
	fmt.Println("leasing cached:", values(one.Get(ctx, "go/shared")))
	must(two.Put(ctx, "go/shared", "plaintext-b"))
	fmt.Println("leasing:", values(one.Get(ctx, "go/shared")), "|", values(two.Get(ctx, "go/shared")))
	swap := func(kv clientv3.KV, from, to string) bool {
		if_ := clientv3.Compare(clientv3.Value("go/shared"), "=", from)
		return must(kv.Txn(ctx).If(if_).Then(clientv3.OpPut("go/shared", to)).Else(clientv3.OpGet("go/shared")).Commit()).Succeeded
	}
	fmt.Println("leasing swaps:", swap(one, "plaintext-b", "plaintext-c"), swap(two, "plaintext-b", "plaintext-d"))
	deleted := must(two.Delete(ctx, "go/shared", clientv3.WithPrevKV()))
	fmt.Println("leasing:", deleted.Deleted, values(one.Get(ctx, "go/shared")))
	closeOne()
	closeTwo()
}

func namespaced(ctx context.Context, client, _ *clientv3.Client) {
	kv := namespace.NewKV(client.KV, "go/ns/")
	watcher := namespace.NewWatcher(client.Watcher, "go/ns/")
	events := watcher.Watch(ctx, "a", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	<-events
	must(kv.Put(ctx, "a", "plaintext-ns-1"))
	must(kv.Put(ctx, "a", "plaintext-ns-2"))
	fmt.Println("namespace:", values(kv.Get(ctx, "", clientv3.WithFromKey())), "|", values(client.Get(ctx, "go/ns/a")))
	for seen := 0; seen < 2; {
		for _, event := range (<-events).Events {
			previous := ""
			if event.PrevKv != nil {
				previous = string(event.PrevKv.Value)
			}
			fmt.Println("namespace:", event.Type, string(event.Kv.Key), string(event.Kv.Value), previous)
			seen++
		}
	}
	lease := namespace.NewLease(client.Lease, "go/ns/")
	granted := must(lease.Grant(ctx, 60))
	must(kv.Put(ctx, "leased", "plaintext-ns-3", clientv3.WithLease(granted.ID)))
	fmt.Printf("namespace: %s\n", must(lease.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())).Keys)
	must(lease.Revoke(ctx, granted.ID))
	fmt.Println("namespace:", must(kv.Delete(ctx, "a", clientv3.WithPrefix())).Deleted)
}

func mirrored(ctx context.Context, client, _ *clientv3.Client) {
	for i := range 1100 {
		must(client.Put(ctx, fmt.Sprintf("go/mirror/%04d", i), "plaintext-mirror-"+strconv.Itoa(i)))
	}
	syncer := mirror.NewSyncer(client, "go/mirror/", 0)
	got, failed := syncer.SyncBase(ctx)
	count, last := 0, ""
	for response := range got {
		count += len(response.Kvs)
		last = string(response.Kvs[len(response.Kvs)-1].Value)
	}
	check(<-failed)
	fmt.Println("mirror:", count, last)
	updates := syncer.SyncUpdates(ctx)
	must(client.Put(ctx, "go/mirror/0000", "plaintext-mirror-new"))
	must(client.Delete(ctx, "go/mirror/0001"))
	for seen := 0; seen < 2; {
		for _, event := range (<-updates).Events {
			fmt.Println("mirror:", event.Type, string(event.Kv.Key), string(event.Kv.Value))
			seen++
		}
	}
	fmt.Println("mirror:", must(client.Delete(ctx, "go/mirror/", clientv3.WithPrefix())).Deleted)
}

func named(ctx context.Context, client, other *clientv3.Client) {
	manager := must(endpoints.NewManager(client, "go/services"))
	updates := must(must(endpoints.NewManager(other, "go/services")).NewWatchChannel(ctx))
	check(manager.AddEndpoint(ctx, "go/services/a", endpoints.Endpoint{Addr: "127.0.0.1:1", Metadata: "plaintext-meta"}))
	for _, update := range <-updates {
		fmt.Println("naming:", update.Op, update.Key, update.Endpoint.Addr, update.Endpoint.Metadata)
	}
	list := must(manager.List(ctx))
	fmt.Println("naming:", len(list), list["go/services/a"].Metadata)
	check(manager.DeleteEndpoint(ctx, "go/services/a"))
}

func ordered(ctx context.Context, client, _ *clientv3.Client) {
	kv := ordering.NewKV(client.KV, func(clientv3.Op, clientv3.OpResponse, int64) error {
		return errors.New("an older revision than before")
	})
	must(kv.Put(ctx, "go/ordered", "plaintext-ordered"))
	for range 20 {
		must(kv.Get(ctx, "go/ordered", clientv3.WithSerializable()))
	}
	fmt.Println("ordering:", values(kv.Get(ctx, "go/ordered")))
}

func watched(ctx context.Context, client, _ *clientv3.Client) {
	big := strings.Repeat("plaintext-big-", 50_000)
	begin := must(client.Put(ctx, "go/watch/0", "plaintext-w")).Header.Revision
	for i := range 5 {
		must(client.Put(ctx, "go/watch/"+strconv.Itoa(i), big))
	}
	must(client.Delete(ctx, "go/watch/", clientv3.WithPrefix()))
	show := func(name string, want int, options ...clientv3.OpOption) {
		options = append(options, clientv3.WithPrefix(), clientv3.WithRev(begin))
		seen := []string{}
		for response := range client.Watch(ctx, "go/watch/", options...) {
			check(response.Err())
			for _, event := range response.Events {
				was := -1
				if event.PrevKv != nil {
					was = len(event.PrevKv.Value)
				}
				seen = append(seen, fmt.Sprintf("%v:%d:%d:%d", event.Type, len(event.Kv.Value), was, event.Kv.ModRevision-begin))
			}
			if len(seen) >= want {
				break
			}
		}
		fmt.Println(name, seen)
	}
	show("watch:", 11)
	show("watch previous:", 11, clientv3.WithPrevKV())
	show("watch fragments:", 11, clientv3.WithPrevKV(), clientv3.WithFragment())
	show("watch puts:", 6, clientv3.WithFilterDelete())
	show("watch deletes:", 5, clientv3.WithFilterPut(), clientv3.WithPrevKV())
	check(client.RequestProgress(ctx))
	must(client.Put(ctx, "go/compacted", "plaintext-compacted"))
	last := must(client.Put(ctx, "go/compacted", "plaintext-compacted")).Header.Revision
	must(client.Compact(ctx, last))
	for response := range client.Watch(ctx, "go/compacted", clientv3.WithRev(begin)) {
		fmt.Println("watch compacted:", response.Canceled, response.CompactRevision == last, response.Err())
	}
	_, err := client.Get(ctx, "go/compacted", clientv3.WithRev(begin))
	_, future := client.Get(ctx, "go/compacted", clientv3.WithRev(last+1000))
	fmt.Println("compacted:", err, "|", future)
}

func ranges(ctx context.Context, client, _ *clientv3.Client) {
	for i, name := range []string{"c", "a", "b", "a", "d"} {
		must(client.Put(ctx, "go/range/"+name, "plaintext-"+strconv.Itoa(9-i)))
	}
	prefix := clientv3.WithPrefix()
	for _, target := range []clientv3.SortTarget{
		clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision, clientv3.SortByModRevision,
		clientv3.SortByValue,
	} {
		for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend} {
			sorted := []clientv3.OpOption{prefix, clientv3.WithSort(target, order)}
			fmt.Println("range:", target, order, values(client.Get(ctx, "go/range/", sorted...)))
			sorted = append(sorted, clientv3.WithLimit(2))
			fmt.Println("range:", target, order, values(client.Get(ctx, "go/range/", sorted...)))
		}
	}
	fmt.Println("range:", values(client.Get(ctx, "go/range/", prefix, clientv3.WithKeysOnly())))
	fmt.Println("range:", values(client.Get(ctx, "go/range/", prefix, clientv3.WithCountOnly())))
	fmt.Println("range:", values(client.Get(ctx, "go/range/", clientv3.WithFirstRev()...)))
	fmt.Println("range:", values(client.Get(ctx, "go/range/", clientv3.WithLastKey()...)))
	_, empty := client.Get(ctx, "")
	_, put := client.Put(ctx, "", "no")
	_, del := client.Delete(ctx, "")
	fmt.Println("range:", empty, "|", put, "|", del)
}

func transactions(ctx context.Context, client, _ *clientv3.Client) {
	must(client.Put(ctx, "go/txn/a", "plaintext-m"))
	for _, operator := range []string{"=", "!=", "<", ">"} {
		for _, against := range []string{"plaintext-l", "plaintext-m", "plaintext-n", ""} {
			answer := must(client.Txn(ctx).
				If(clientv3.Compare(clientv3.Value("go/txn/a"), operator, against)).
				Then(clientv3.OpGet("go/txn/a"), clientv3.OpPut("go/txn/b", "plaintext-b", clientv3.WithPrevKV())).
				Else(clientv3.OpTxn(
					[]clientv3.Cmp{clientv3.Compare(clientv3.Value("go/txn/").WithPrefix(), ">", "plaintext-a")},
					[]clientv3.Op{clientv3.OpDelete("go/txn/b", clientv3.WithPrevKV())}, nil)).
				Commit())
			line := []string{operator, against, fmt.Sprint(answer.Succeeded)}
			for _, response := range answer.Responses {
				line = append(line, show(response))
			}
			fmt.Println("txn:", strings.Join(line, " "))
		}
	}
	_, twice := client.Txn(ctx).Then(clientv3.OpPut("go/txn/c", "1"), clientv3.OpPut("go/txn/c", "2")).Commit()
	many := make([]clientv3.Op, 129)
	for i := range many {
		many[i] = clientv3.OpGet("go/txn/a")
	}
	_, tooMany := client.Txn(ctx).Then(many...).Commit()
	fmt.Println("txn:", twice, "|", tooMany)
	keys := must(client.Get(ctx, "go/txn/", clientv3.WithPrefix())).Kvs
	sort.Slice(keys, func(i, j int) bool { return keys[i].ModRevision < keys[j].ModRevision })
	for _, kv := range keys {
		fmt.Println("txn:", string(kv.Key), string(kv.Value))
	}
}

func show(response *pb.ResponseOp) string {
	switch {
	case response.GetResponseRange() != nil:
		kv := response.GetResponseRange().Kvs[0]
		return fmt.Sprintf("%s=%s", kv.Key, kv.Value)
	case response.GetResponsePut() != nil:
		if previous := response.GetResponsePut().PrevKv; previous != nil {
			return fmt.Sprintf("was %q", previous.Value)
		}
		return "new"
	case response.GetResponseDeleteRange() != nil:
		parts := []string{}
		for _, kv := range response.GetResponseDeleteRange().PrevKvs {
			parts = append(parts, string(kv.Value))
		}
		return fmt.Sprintf("deleted %d %v", response.GetResponseDeleteRange().Deleted, parts)
	default:
		parts := []string{fmt.Sprint(response.GetResponseTxn().Succeeded)}
		for _, inner := range response.GetResponseTxn().Responses {
			parts = append(parts, show(inner))
		}
		return "(" + strings.Join(parts, " ") + ")"
	}
}
