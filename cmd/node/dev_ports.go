package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// checkPorts finds out before anything is started whether all ports are free. A
// node that cannot listen says so too, but after others have started, and in its log.
func checkPorts(o devOptions) error {
	for _, n := range devNodes("", o) {
		for _, p := range []struct{ what, network, addr string }{
			{"RESP", "tcp", n.resp}, {"HTTP", "tcp", n.http}, {"peer", "tcp", n.peer},
			{"gossip", "tcp", n.gossip}, {"gossip", "udp", n.gossip},
		} {
			err := tryListen(p.network, p.addr)
			if err == nil {
				continue
			}
			_, port, _ := net.SplitHostPort(p.addr)
			if errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("port %s/%s (%s of %s) is in use: stop the program that has it, or choose other ports with --resp-port", port, p.network, p.what, n.id)
			}
			return fmt.Errorf("cannot listen on port %s/%s (%s of %s), choose other ports with --resp-port: %w", port, p.network, p.what, n.id, err)
		}
	}
	return nil
}

func tryListen(network, addr string) error {
	var listener io.Closer
	var err error
	if network == "udp" {
		listener, err = net.ListenPacket(network, addr)
	} else {
		listener, err = net.Listen(network, addr)
	}
	if err != nil {
		return err
	}
	return listener.Close()
}

const (
	probeEvery   = 50 * time.Millisecond
	probeTimeout = 3 * time.Second // longer than a node may take to answer
)

// awaitServing returns when every node answers a linearizable command. That takes
// a leader which has applied all it has.
func awaitServing(ctx context.Context, nodes []devNode) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for _, n := range nodes {
		for !serving(ctx, n.resp) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not serve: %w", n.id, ctx.Err())
			case <-ticker.C:
			}
		}
	}
	return nil
}

// serving asks for the number of keys, which is a linearizable read. One command
// on a socket needs no client library.
func serving(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }() // a probe leaves nothing behind
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, "*1\r\n$6\r\nDBSIZE\r\n"); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, ":")
}
