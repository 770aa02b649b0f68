package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// authority signs certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) config(t *testing.T) *tls.Config {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: a.pool}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func withTLS(cfg *tls.Config) func(*PeerConfig) { return func(c *PeerConfig) { c.TLS = cfg } }

func TestMutualTLSAdmitsOnlyOurOwn(t *testing.T) {
	checkLeaks(t)
	ours, others := newAuthority(t), newAuthority(t)
	server := listenPeer(t, "n1", withTLS(ours.config(t)))
	server.Handle(KindConfirm, echo)
	server.StreamLayer(0, nil)
	servePeer(t, server)
	addr := server.Addr().String()

	member := newPeer(t, "n2", withTLS(ours.config(t)))
	if answer, err := member.Call(short(t), addr, KindConfirm, 0, []byte("x")); err != nil || string(answer) != "n2:x" {
		t.Fatalf("a member: %q, %v", answer, err)
	}
	if conn, err := member.StreamLayer(0, nil).Dial(raft.ServerAddress(addr), 10*time.Second); err != nil {
		t.Errorf("a member's raft connection: %v", err)
	} else {
		_ = conn.Close()
	}

	anonymous := ours.config(t)
	anonymous.Certificates = nil
	trusting := others.config(t)
	trusting.RootCAs = ours.pool
	for name, change := range map[string]func(*PeerConfig){
		"without a certificate":      withTLS(anonymous),
		"of another authority":       withTLS(others.config(t)),
		"with another's certificate": withTLS(trusting),
		"without TLS":                func(*PeerConfig) {},
	} {
		_, err := newPeer(t, "n3", change).Call(short(t), addr, KindConfirm, 0, nil)
		if !errors.Is(err, ErrNotSent) {
			t.Errorf("a node %s: %v, want ErrNotSent", name, err)
		}
	}
}

func TestManyCallsOverTLSEndCleanly(t *testing.T) {
	checkLeaks(t)
	ours := newAuthority(t)
	server := listenPeer(t, "n1", withTLS(ours.config(t)))
	server.Handle(KindForward, echo)
	servePeer(t, server)
	caller := newPeer(t, "n2", withTLS(ours.config(t)))
	for i := range 200 {
		req := payload(i, i*100)
		if answer, err := caller.Call(short(t), server.Addr().String(), KindForward, 0, req); err != nil || len(answer) != len(req)+3 {
			t.Fatalf("call %d: %d bytes, %v", i, len(answer), err)
		}
	}
}
