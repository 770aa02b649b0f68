package client

import "net"

// DemoCluster starts a node for an example. It lives as long as the test process.
func DemoCluster() []string {
	s := &store{data: make(map[string]string), term: 1}
	f := &fakeNode{store: s, addr: "127.0.0.1:0", conns: make(map[net.Conn]struct{})}
	f.start()
	s.nodes, s.leader = []*fakeNode{f}, f
	return []string{f.addr}
}
