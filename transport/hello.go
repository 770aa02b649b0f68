package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind says what a connection is for. Its value goes over the wire.
type Kind byte

// The kinds of connections.
const (
	KindRaft    Kind = 'R' // hashicorp/raft's own protocol, through a StreamLayer
	KindConfirm Kind = 'C' // calls: leadership confirmation rounds
	KindForward Kind = 'F' // calls: commands forwarded to the leader
	KindControl Kind = 'M' // calls: cluster administration; open to nodes that belong to no cluster yet
)

func (k Kind) valid() bool {
	return k == KindRaft || k == KindConfirm || k == KindForward || k == KindControl
}

// String names the kind for logs and errors.
func (k Kind) String() string {
	switch k {
	case KindRaft:
		return "raft"
	case KindConfirm:
		return "confirm"
	case KindForward:
		return "forward"
	case KindControl:
		return "control"
	default:
		return fmt.Sprintf("%#x", byte(k))
	}
}

// Hello is what a dialing node says of itself and of the connection it opens.
type Hello struct {
	ClusterID string // "" for a node that belongs to no cluster yet
	NodeID    string
	Group     uint32 // Raft group; 0 for connections that concern the whole node
	Kind      Kind
}

const (
	// magic begins with a byte that no text protocol begins with, so that a lost HTTP or Redis client is
	// recognized at once.
	magic           = "\xf5RCK"
	protocolVersion = 1

	maxIDBytes     = 255 // lengths of ids take one byte
	maxReasonBytes = 1024

	preambleBytes = len(magic) + 1 + 2     // of the hello: magic, version, length
	answerBytes   = len(magic) + 1 + 1 + 2 // of the answer: magic, version, verdict, length

	minHelloBytes = 1 + 4 + 1 + 1
	maxHelloBytes = minHelloBytes + 2*maxIDBytes
)

// Verdicts of an answer.
const (
	accepted byte = 0
	refused  byte = 1
)

var errNotOurs = errors.New("these bytes are not the raftcask peer protocol")

// appendHello encodes h with its preamble. Ids are at most 255 bytes.
func appendHello(dst []byte, h Hello) []byte {
	dst = append(dst, magic...)
	dst = append(dst, protocolVersion)
	dst = binary.BigEndian.AppendUint16(dst, uint16(minHelloBytes+len(h.ClusterID)+len(h.NodeID)))
	dst = append(dst, byte(h.Kind))
	dst = binary.BigEndian.AppendUint32(dst, h.Group)
	dst = append(dst, byte(len(h.ClusterID)))
	dst = append(dst, h.ClusterID...)
	dst = append(dst, byte(len(h.NodeID)))
	return append(dst, h.NodeID...)
}

// decodeHello decodes what follows the preamble. It accepts exactly what appendHello produces.
func decodeHello(b []byte) (Hello, error) {
	if len(b) < minHelloBytes {
		return Hello{}, fmt.Errorf("hello of %d bytes is too short", len(b))
	}
	h := Hello{Kind: Kind(b[0]), Group: binary.BigEndian.Uint32(b[1:5])}
	rest := b[5:]
	for _, field := range []*string{&h.ClusterID, &h.NodeID} {
		if len(rest) == 0 || len(rest)-1 < int(rest[0]) {
			return Hello{}, errors.New("hello is cut off inside an id")
		}
		length := int(rest[0])
		*field, rest = string(rest[1:1+length]), rest[1+length:]
		if !printable(*field) {
			return Hello{}, errors.New("hello holds an id with unprintable characters")
		}
	}
	switch {
	case len(rest) > 0:
		return Hello{}, fmt.Errorf("hello has %d bytes too many", len(rest))
	case !h.Kind.valid():
		return Hello{}, fmt.Errorf("unknown kind of connection %s", h.Kind)
	case h.NodeID == "":
		return Hello{}, errors.New("hello without a node id")
	}
	return h, nil
}

// printable reports whether an id may appear in logs and error messages as it is.
func printable(id string) bool {
	if !utf8.ValidString(id) {
		return false
	}
	for _, r := range id {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// readHello reads and decodes a whole hello. refusal is what to tell a peer that does speak this protocol.
func readHello(r io.Reader) (h Hello, refusal string, err error) {
	var preamble [preambleBytes]byte
	if _, err := io.ReadFull(r, preamble[:]); err != nil {
		return Hello{}, "", fmt.Errorf("read the hello: %w", err)
	}
	if string(preamble[:len(magic)]) != magic {
		return Hello{}, "", errNotOurs
	}
	if version := preamble[len(magic)]; version != protocolVersion {
		reason := fmt.Sprintf("this node speaks version %d of the peer protocol, you speak version %d", protocolVersion, version)
		return Hello{}, reason, errors.New(reason)
	}
	length := int(binary.BigEndian.Uint16(preamble[len(magic)+1:]))
	if length < minHelloBytes || length > maxHelloBytes {
		reason := fmt.Sprintf("hello of %d bytes, at most %d are allowed", length, maxHelloBytes)
		return Hello{}, reason, errors.New(reason)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return Hello{}, "", fmt.Errorf("read the hello: %w", err)
	}
	if h, err = decodeHello(body); err != nil {
		return Hello{}, err.Error(), err
	}
	return h, "", nil
}

// appendAnswer encodes the answer to a hello; no reason means accepted.
func appendAnswer(dst []byte, reason string) []byte {
	verdict := accepted
	if reason != "" {
		verdict = refused
		reason = reason[:min(len(reason), maxReasonBytes)]
	}
	dst = append(dst, magic...)
	dst = append(dst, protocolVersion, verdict)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(reason)))
	return append(dst, reason...)
}

// readAnswer reads the answer to a hello. A refusal is a *RefusedError.
func readAnswer(r io.Reader) error {
	var head [answerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read the answer to the hello: %w", err)
	}
	if string(head[:len(magic)]) != magic {
		return errNotOurs
	}
	version, verdict := head[len(magic)], head[len(magic)+1]
	length := int(binary.BigEndian.Uint16(head[len(magic)+2:]))
	if length > maxReasonBytes {
		return fmt.Errorf("answer with a reason of %d bytes, at most %d are allowed", length, maxReasonBytes)
	}
	reason := make([]byte, length)
	if _, err := io.ReadFull(r, reason); err != nil {
		return fmt.Errorf("read the answer to the hello: %w", err)
	}
	if verdict != accepted {
		return &RefusedError{Reason: string(reason)}
	}
	if version != protocolVersion {
		return &RefusedError{Reason: fmt.Sprintf("the peer speaks version %d of the peer protocol, this node speaks version %d", version, protocolVersion)}
	}
	return nil
}

// route is where an accepted connection goes: exactly one of the two is set.
type route struct {
	handler Handler
	stream  *StreamLayer // with a place reserved in its accept queue
}

// acceptHello runs the accepting side of the handshake. After an error the caller closes the connection.
func (p *Peer) acceptHello(conn net.Conn) (Hello, route, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return Hello{}, route{}, fmt.Errorf("set the handshake deadline: %w", err)
	}
	hello, refusal, err := readHello(conn)
	if err != nil && refusal == "" {
		// Nobody to explain anything to: a port scan, a lost client, a connection that broke.
		p.refusals.add(slog.LevelDebug, conn.RemoteAddr(), err.Error())
		return Hello{}, route{}, err
	}
	var to route
	if refusal == "" {
		to, refusal = p.route(hello)
	}
	if _, err := conn.Write(appendAnswer(nil, refusal)); err != nil {
		to.cancel()
		return Hello{}, route{}, fmt.Errorf("answer the hello: %w", err)
	}
	if refusal != "" {
		p.refusals.add(slog.LevelWarn, conn.RemoteAddr(), refusal,
			"peer", hello.NodeID, "cluster", hello.ClusterID, "kind", hello.Kind.String(), "group", hello.Group)
		return Hello{}, route{}, &RefusedError{Reason: refusal}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		to.cancel()
		return Hello{}, route{}, fmt.Errorf("clear the handshake deadline: %w", err)
	}
	return hello, to, nil
}

// route decides about a hello: where the connection goes, or why it is refused.
func (p *Peer) route(h Hello) (route, string) {
	if reason := refuseCluster(h.Kind, p.cfg.ClusterID(), h.ClusterID); reason != "" {
		return route{}, reason
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.Kind != KindRaft {
		handler, ok := p.handlers[h.Kind]
		if !ok {
			return route{}, fmt.Sprintf("this node answers no calls of kind %s", h.Kind)
		}
		return route{handler: handler}, ""
	}
	stream, ok := p.streams[h.Group]
	if !ok {
		return route{}, fmt.Sprintf("this node has no raft group %d", h.Group)
	}
	if !stream.reserve() {
		return route{}, fmt.Sprintf("the accept queue of raft group %d is full", h.Group)
	}
	return route{stream: stream}, ""
}

// cancel gives a reserved place back.
func (r route) cancel() {
	if r.stream != nil {
		r.stream.unreserve()
	}
}

// refuseCluster returns why two nodes may not connect, or "". Control connections are open to nodes without a
// cluster: that is how they find one. Everything else needs two members of the same cluster.
func refuseCluster(kind Kind, accepting, dialing string) string {
	switch {
	case accepting == dialing && accepting != "":
		return ""
	case kind == KindControl && (accepting == "" || dialing == ""):
		return ""
	case accepting == "":
		return "this node belongs to no cluster yet"
	case dialing == "":
		return fmt.Sprintf("you belong to no cluster yet, this node belongs to cluster %q", accepting)
	default:
		return fmt.Sprintf("this node belongs to cluster %q, you belong to cluster %q", accepting, dialing)
	}
}
