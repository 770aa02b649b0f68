// Package http is the HTTP port of a node: health, metrics, and whatever else is registered on the same mux.
//
//	srv, err := http.New(http.Config{
//		Addr:     ":8379",
//		Live:     []http.Check{{Name: "storage", Run: storeIsUsable}},
//		Ready:    []http.Check{{Name: "leader", Run: leaderIsKnown}},
//		Gatherer: registry,
//	})
//	srv.Handle("GET /v1/kv/{key}", kv, "read a key")
//	go srv.Serve()
//
// The port answers
//
//	GET /          the endpoints, one per line
//	GET /livez     200 "ok", or 503 and the reason: the process is beyond help and should be restarted
//	GET /readyz    200 "ok", or 503 and the reason: do not send clients here now
//	GET /metrics   the metrics of the Gatherer, for Prometheus
//
// With ?verbose, /livez and /readyz list every check. Any other method is answered with 405, any other path
// with 404. The package is named like the one it serves with; import it under a name of your choice.
//
// New binds the address, so that a wrong one is found out at once. Goroutines are net/http's, one per
// connection; Close gives running requests a few seconds to finish and then closes their connections.
package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	readHeaderTimeout = 5 * time.Second   // headers arrive at once, or somebody is holding a connection on purpose
	readTimeout       = 60 * time.Second  // a large value over a slow link
	writeTimeout      = 60 * time.Second  // a handler that streams for longer extends it with http.ResponseController
	idleTimeout       = 120 * time.Second // longer than the scrape interval of most setups
	maxHeaderBytes    = 64 << 10
	maxConns          = 1024 // more wait in the listen backlog

	// closeGrace is how long Close lets requests finish before it cuts them off.
	closeGrace = 5 * time.Second
)

// Config configures a Server.
type Config struct {
	// Addr is where to listen, host:port; port 0 picks a free one.
	Addr string
	// Live and Ready are what /livez and /readyz run, in this order. The first failing check gives the reason.
	// No checks: always ok.
	Live, Ready []Check
	// Gatherer is what /metrics shows. Nil: /metrics does not exist.
	Gatherer prometheus.Gatherer
	// Logger receives what net/http and the metrics handler complain about. Nil discards it.
	Logger *slog.Logger
}

// Server serves the HTTP port of one node.
type Server struct {
	listener net.Listener
	mux      *nethttp.ServeMux
	server   *nethttp.Server
	logger   *slog.Logger

	mu        sync.Mutex
	endpoints []endpoint // guarded by mu; what the index lists
}

// New binds cfg.Addr and registers the routes above. Close must be called even if Serve never is.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	mux := nethttp.NewServeMux()
	s := &Server{
		listener: limit(listener, maxConns),
		mux:      mux,
		logger:   cfg.Logger,
		server: &nethttp.Server{
			Handler:           mux,
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
		},
	}
	s.mux.HandleFunc("GET /{$}", s.index)
	s.Handle("GET /livez", checks{cfg.Live}, "is the process sound? 200 or 503 with the reason; ?verbose lists the checks")
	s.Handle("GET /readyz", checks{cfg.Ready}, "should clients be sent here? 200 or 503 with the reason; ?verbose lists the checks")
	if cfg.Gatherer != nil {
		s.Handle("GET /metrics", metricsHandler(cfg.Gatherer, cfg.Logger), "metrics, for Prometheus")
	}
	return s, nil
}

// Handle registers a route, also while the server is running. The pattern is that of net/http's ServeMux and
// should name its method: then the mux answers other methods with 405. A pattern that contradicts another
// panics. summary is its line in the index; "" leaves it out.
func (s *Server) Handle(pattern string, handler nethttp.Handler, summary string) {
	s.mux.Handle(pattern, handler)
	if summary == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = append(s.endpoints, endpoint{pattern: pattern, summary: summary})
}

// Addr is the address of the listener, with the port that was picked.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers requests until Close, and then returns nil.
func (s *Server) Serve() error {
	err := s.server.Serve(s.listener)
	if errors.Is(err, nethttp.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

// Close stops listening, lets running requests finish for a few seconds and then cuts off the rest.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.logger.Warn("HTTP requests were cut off", "after", closeGrace)
		err = s.server.Close()
	}
	// The server knows the listener only when it has served; the second close of one that it did is no news.
	if closeErr := s.listener.Close(); err == nil && !errors.Is(closeErr, net.ErrClosed) {
		err = closeErr
	}
	return err
}
