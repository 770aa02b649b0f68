package diskfault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Request changes what is wrong with a machine. The parts take effect in the order of the fields.
type Request struct {
	Clear []string       // names of rules to take back, "*" for all; what they hold up goes on
	Add   []Rule         // further rules
	Clock *time.Duration // how far the clock is ahead of the real one from now on; negative: behind
}

// Answer to each Request.
type Answer struct {
	Error string
	Hits  map[string]int // by the name of a rule in force: how many operations it has struck
}

// exchangeTimeout of one request and its answer: far more than a local socket needs.
const exchangeTimeout = 10 * time.Second

// Send has a request carried out by the machine that listens at the socket.
func Send(socket string, r Request) (hits map[string]int, err error) {
	conn, err := net.DialTimeout("unix", socket, exchangeTimeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // the answer has been read
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return nil, err
	}
	var a Answer
	if err := errors.Join(json.NewEncoder(conn).Encode(r), json.NewDecoder(conn).Decode(&a)); err != nil {
		return nil, fmt.Errorf("ask the machine at %s: %w", socket, err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Hits, nil
}

// serve answers one request per connection.
func (m *Machine) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "faults: no further requests:", err)
			return
		}
		if err := m.answer(conn); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
		}
		_ = conn.Close() // whoever asked has the answer
	}
}

func (m *Machine) answer(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	var r Request
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return err
	}
	var a Answer
	m.rules.clear(r.Clear)
	if err := m.rules.add(r.Add); err != nil {
		a.Error = err.Error()
	}
	if r.Clock != nil {
		m.skew.Store(int64(*r.Clock))
	}
	a.Hits = m.rules.hits()
	return json.NewEncoder(conn).Encode(a)
}
