package integration

import (
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
)

// Ports of the nodes. They are taken below the range from which the kernel gives ports to outgoing connections (32768 and up
// on Linux), so that no connection can sit on a node's port while the node is dead and about to return.
var ports struct {
	sync.Mutex
	next int
}

const (
	firstPort = 20000
	lastPort  = 32000
)

// freeAddr returns a loopback address that is free for TCP and UDP, and that no other call returns.
func freeAddr(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = firstPort + os.Getpid()*97%(lastPort-firstPort) // test runs side by side begin at different places
	}
	for range lastPort - firstPort {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports.next))
		if ports.next++; ports.next > lastPort {
			ports.next = firstPort
		}
		if free(addr) {
			return addr
		}
	}
	t.Fatal("no free port on loopback")
	return ""
}

func free(addr string) bool {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = tcp.Close() }() // nothing was accepted
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
