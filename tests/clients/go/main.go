// Clients of etcd, built on etcd's own Go client. The tests in tests/it run this program against etcd and against the
// proxy, and compare what it prints.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var commands = map[string]func(args []string){
	"watch-survival": watchSurvival,
	"sync":           syncEndpoints,
	"recipes":        recipes,
	"inflight":       inflight,
	"linear":         linear,
	"value":          value,
}

func main() {
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		commands[os.Args[1]](os.Args[2:])
		return
	}
	fmt.Fprintln(os.Stderr, "usage: clients watch-survival|sync|recipes|inflight|linear|value …")
	os.Exit(2)
}

// must ends the program when something fails that nothing was to make fail.
func must[T any](result T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
	return result
}

func check(err error) { must(0, err) }

// connect makes a client of endpoints, which commas separate.
func connect(endpoints string) *clientv3.Client {
	return must(clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(endpoints, ","),
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	}))
}

func within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	time.AfterFunc(limit, cancel)
	return ctx
}

var input = bufio.NewReader(os.Stdin)

// say prints a line that the test waits for, and waits for the test's answer.
func say(line string) {
	fmt.Println(line)
	must(input.ReadString('\n'))
}
