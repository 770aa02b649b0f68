package netfault

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// far is a deadline that only a broken test meets; near is how long something that must not arrive is waited for.
const (
	far  = 20 * time.Second
	near = 100 * time.Millisecond
)

// pair is a network with the node b, which a has connected to: both ends of the connection, and of a way for datagrams.
type pair struct {
	network  *Network
	a        *net.TCPConn
	b        net.Conn
	udpA     net.PacketConn
	udpB     net.PacketConn
	toB      net.Addr // where a sends its datagrams
	listener net.Listener
}

func newPair(t *testing.T) *pair {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &pair{network: New(func(net.Addr) (string, error) { return "a", nil })}
	t.Cleanup(p.network.Close)
	var err error
	p.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(err)
	p.udpB, err = net.ListenPacket("udp", p.listener.Addr().String())
	must(err)
	p.udpA, err = net.ListenPacket("udp", "127.0.0.1:0")
	must(err)
	advertised := freeAddr(t)
	must(p.network.Add("a", p.udpA.LocalAddr().String(), freeAddr(t)))
	must(p.network.Add("b", p.listener.Addr().String(), advertised))
	p.toB, err = net.ResolveUDPAddr("udp", advertised)
	must(err)
	advertisedTCP, err := net.ResolveTCPAddr("tcp", advertised)
	must(err)
	p.a, err = net.DialTCP("tcp", nil, advertisedTCP)
	must(err)
	p.b, err = p.listener.Accept()
	must(err)
	t.Cleanup(func() {
		for _, c := range []io.Closer{p.a, p.b, p.listener, p.udpA, p.udpB} {
			_ = c.Close() // some have been reset
		}
	})
	return p
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was accepted
	return l.Addr().String()
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// arrives fails unless exactly text is read from c.
func arrives(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(far)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Fatalf("read %q, %v, want %q", buf, err, text)
	}
}

// silent fails if anything is read soon.
func silent(t *testing.T, c interface {
	SetReadDeadline(t time.Time) error
}, read func([]byte) (int, error),
) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(near)); err != nil {
		t.Fatal(err)
	}
	if n, err := read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v, want nothing", n, err)
	}
}

func TestCutIsOneWayAndEnds(t *testing.T) {
	p := newPair(t)
	send(t, p.a, "hello")
	arrives(t, p.b, "hello")
	p.network.Set("a", "b", Rule{Cut: true})
	send(t, p.a, "later")
	silent(t, p.b, p.b.Read)
	send(t, p.b, "back")
	arrives(t, p.a, "back")
	p.network.Heal()
	arrives(t, p.b, "later")
}

func TestDatagramsOfACutAreGone(t *testing.T) {
	p := newPair(t)
	read := func(b []byte) (int, error) { n, _, err := p.udpB.ReadFrom(b); return n, err }
	for _, rule := range []Rule{{Cut: true}, {Loss: 1}} {
		p.network.Set("a", "b", rule)
		if _, err := p.udpA.WriteTo([]byte("lost"), p.toB); err != nil {
			t.Fatal(err)
		}
		silent(t, p.udpB, read)
		p.network.Heal()
		if _, err := p.udpA.WriteTo([]byte("x"), p.toB); err != nil {
			t.Fatal(err)
		}
		if err := p.udpB.SetReadDeadline(time.Now().Add(far)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := read(buf); err != nil || string(buf[:n]) != "x" {
			t.Fatalf("received %q, %v", buf[:n], err)
		}
	}
}

func TestDelayAndThrottleTakeTheirTime(t *testing.T) {
	for _, rule := range []Rule{{Delay: near}, {BytesPerSecond: 50}} {
		p := newPair(t)
		p.network.Set("a", "b", rule)
		begin := time.Now()
		send(t, p.a, "hello")
		arrives(t, p.b, "hello")
		if took := time.Since(begin); took < near { // five bytes at 50 a second take 0.1 s
			t.Errorf("%+v: arrived after %v", rule, took)
		}
	}
}

func TestResetBreaksTheConnection(t *testing.T) {
	p := newPair(t)
	send(t, p.a, "hello")
	arrives(t, p.b, "hello")
	if n := p.network.Reset("b", "a"); n != 1 {
		t.Errorf("%d connections reset, want 1", n)
	}
	for _, c := range []net.Conn{p.a, p.b} {
		if err := c.SetReadDeadline(time.Now().Add(far)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read from a reset connection: %v", err)
		}
	}
}

func TestEndOfOneDirectionLeavesTheOther(t *testing.T) {
	p := newPair(t)
	send(t, p.a, "bye")
	if err := p.a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	arrives(t, p.b, "bye")
	if n, err := p.b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v, want EOF", n, err)
	}
	send(t, p.b, "answer")
	arrives(t, p.a, "answer")
}
