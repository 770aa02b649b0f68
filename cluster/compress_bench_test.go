package cluster

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// BenchmarkSnapshotOnTheWire sends 64 MiB over a real connection, as it is and compressed, on a network as fast as loopback and
// on one of 1 Gbit/s and of 100 Mbit/s.
func BenchmarkSnapshotOnTheWire(b *testing.B) {
	const size = 64 << 20
	rng := rand.New(rand.NewPCG(1, 1))
	kinds := []struct {
		name string
		data []byte
	}{
		{"random", snapshotLike(rng, size, 0)},
		{"json", snapshotLike(rng, size, 1)},
		{"half", snapshotLike(rng, size, 0.15)},
	}
	for _, network := range []struct {
		name string
		rate int // bytes per second
	}{{"loopback", 0}, {"1Gbit", 125e6}, {"100Mbit", 12.5e6}} {
		for _, kind := range kinds {
			for _, squeezed := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/%s/zstd=%t", network.name, kind.name, squeezed), func(b *testing.B) {
					sendOnTheWire(b, kind.data, network.rate, squeezed)
				})
			}
		}
	}
}

func sendOnTheWire(b *testing.B, data []byte, rate int, squeezed bool) {
	receiverHub, senderHub := newStreamHub(newTCPLayer(b, "127.0.0.1:0")), newStreamHub(slowLayer{newTCPLayer(b, "127.0.0.1:0"), rate})
	book := &addressBook{}
	book.squeezed.Store(&map[raft.ServerID]bool{"r": squeezed})
	receiver := newTransport(receiverHub.open(), book, noWatch(), newHclog(quiet(), "raft"), &counters{})
	sender := newTransport(senderHub.open(), book, noWatch(), newHclog(quiet(), "raft"), &counters{})
	defer func() {
		_, _ = sender.Close(), receiver.Close()
		_, _ = senderHub.Close(), receiverHub.Close()
	}()
	go func() {
		for {
			select {
			case rpc := <-receiver.Consumer():
				_, _ = installLikeRaft(rpc, io.Discard)
			case <-receiver.closing:
				return
			}
		}
	}()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := sender.send(receiver, struct{ io.Reader }{bytes.NewReader(data)}, int64(len(data))); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(sender.counters.snapshotWire.Load())/float64(sender.counters.snapshotRaw.Load()), "wire/raw")
}

// slowLayer dials connections that take so many bytes a second.
type slowLayer struct {
	*tcpLayer
	rate int
}

func (l slowLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := l.tcpLayer.Dial(address, timeout)
	if err == nil && l.rate > 0 {
		conn = &slowConn{Conn: conn, rate: l.rate}
	}
	return conn, err
}

type slowConn struct {
	net.Conn
	rate int
	free time.Time // when the line has sent what it was given
}

func (c *slowConn) Write(p []byte) (int, error) {
	if now := time.Now(); c.free.Before(now) {
		c.free = now
	}
	c.free = c.free.Add(time.Duration(len(p)) * time.Second / time.Duration(c.rate))
	if ahead := time.Until(c.free); ahead > 2*time.Millisecond { // the line's buffer
		time.Sleep(ahead)
	}
	return c.Conn.Write(p)
}
