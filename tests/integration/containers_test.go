package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestChaosContainers breaks a cluster of containers, built from this tree, as TestChaos breaks processes: the network between
// them is disconnected for real, while clients still reach the node that was cut off.
func TestChaosContainers(t *testing.T) {
	needDocker(t)
	rng := newRand(t)
	f := containerFleet(t, 3, chaosFlags...)
	const share = 5 // of the time that the processes get
	duration := chaosDuration(t, 0) / share
	if duration == 0 { // what is not the same for a process: to be killed, told to stop, frozen, without its network
		f.faults = slices.DeleteFunc(f.faults, func(x fault) bool {
			return x.name != "kill -9" && x.name != "graceful stop" && x.name != "pause" && x.name != disconnected
		})
	}
	runChaos(t, f, rng, duration, "containers")
}

// needDocker skips the test where there is no Docker to use.
func needDocker(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("skipped: there is no docker command here, so nothing was tested with containers")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "info", "--format", "{{.ServerVersion}}").CombinedOutput(); err != nil {
		t.Skipf("skipped: dockerd does not answer, so nothing was tested with containers: %v: %s", err, bytes.TrimSpace(out))
	}
}

const dockerTimeout = 2 * time.Minute

func tryDocker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(bytes.TrimSpace(out)), nil
}

func docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryDocker(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dockerLabel marks everything that these tests make; its value is the process that made it.
const dockerLabel = "raftcask.test"

// prefix is the beginning of every name that this process gives.
func dockerPrefix() string { return fmt.Sprintf("raftcask-test-%d", os.Getpid()) }

// makeContainers makes the image and the two networks that each container is in, one for clients and one for peers. They are
// internal: a container has no way to the outside, and so none around a network that it was disconnected from.
func makeContainers(t testing.TB) (image, clients, peers, clientNet, peerNet string) {
	t.Helper()
	removeLeftovers(t)
	label := fmt.Sprintf("%s=%d", dockerLabel, os.Getpid())
	image = dockerPrefix() + ":latest"
	t.Cleanup(func() { removeDocker(t, "image", "rm", "-f", image) })
	buildImage(t, image, label)
	clients, peers = dockerPrefix()+"-clients", dockerPrefix()+"-peers"
	clientNet, peerNet = makeNetwork(t, clients, label), makeNetwork(t, peers, label)
	return image, clients, peers, clientNet, peerNet
}

// buildImage builds the tree's Containerfile around a static binary of this tree.
func buildImage(t testing.TB, image, label string) {
	t.Helper()
	dir := filepath.Join(testDir(t), "image")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "raftcask"), "github.com/raftcask/raftcask/cmd/node")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build raftcask: %v\n%s", err, out)
	}
	docker(t, "build", "-q", "-t", image, "--label", label, "-f", "../../deploy/Containerfile", dir)
}

// makeNetwork makes a network in a range that is free here, and returns the first three numbers of its addresses.
func makeNetwork(t testing.TB, name, label string) (net string) {
	t.Helper()
	var err error
	for i := range 250 {
		net = fmt.Sprintf("10.213.%d", (os.Getpid()+i)%250+1)
		if _, err = tryDocker("network", "create", "--internal", "--label", label, "--subnet", net+".0/24", name); err == nil {
			t.Cleanup(func() { removeDocker(t, "network", "rm", name) })
			return net
		}
		if !strings.Contains(err.Error(), "overlap") {
			break
		}
	}
	t.Fatal(err)
	return ""
}

func removeDocker(t testing.TB, args ...string) {
	t.Helper()
	if _, err := tryDocker(args...); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// removeLeftovers removes what tests left behind that were killed.
func removeLeftovers(t testing.TB) {
	t.Helper()
	for _, sort := range []struct{ list, inspect, labels, remove string }{
		{"container ls -aq", "container inspect", ".Config.Labels", "container rm -fv"},
		{"network ls -q", "network inspect", ".Labels", "network rm"},
		{"image ls -q", "image inspect", ".Config.Labels", "image rm -f"},
	} {
		command := func(text string, more ...string) []string { return append(strings.Fields(text), more...) }
		for _, id := range strings.Fields(docker(t, command(sort.list, "--filter", "label="+dockerLabel)...)) {
			maker := docker(t, command(sort.inspect, "--format", fmt.Sprintf("{{index %s %q}}", sort.labels, dockerLabel), id)...)
			if _, err := os.Stat("/proc/" + maker); os.IsNotExist(err) {
				removeDocker(t, command(sort.remove, id)...)
			}
		}
	}
}

// container is one node in a container of its own.
type container struct {
	t                testing.TB
	id, docker       string // names of the node and of its container
	clientIP, peerIP string
	paused, away     bool // away: disconnected from its peers
}

const (
	containerResp = ":7379"
	containerHTTP = ":8379"
)

func (c *container) name() string     { return c.id }
func (c *container) respAddr() string { return c.clientIP + containerResp }
func (c *container) ready() error     { return readyAt(c.clientIP + containerHTTP) }

func (c *container) start() {
	c.t.Helper()
	docker(c.t, "start", c.docker)
}

func (c *container) kill() {
	c.t.Helper()
	c.resume() // a paused container cannot be killed
	if c.running() {
		docker(c.t, "kill", c.docker)
	}
}

func (c *container) terminate() {
	c.t.Helper()
	docker(c.t, "stop", "--time", strconv.Itoa(int(stopTimeout.Seconds())), c.docker)
}

func (c *container) pause() {
	c.t.Helper()
	if !c.paused {
		docker(c.t, "pause", c.docker)
		c.paused = true
	}
}

func (c *container) resume() {
	c.t.Helper()
	if c.paused {
		docker(c.t, "unpause", c.docker)
		c.paused = false
	}
}

func (c *container) running() bool {
	c.t.Helper()
	return docker(c.t, "inspect", "--format", "{{.State.Running}}", c.docker) == "true"
}

func (c *container) log() string {
	c.t.Helper()
	return docker(c.t, "logs", c.docker)
}

// containerFleet starts n containers that find each other through their own network.
func containerFleet(t testing.TB, n int, flags ...string) *fleet {
	t.Helper()
	image, clients, peers, clientNet, peerNet := makeContainers(t)
	f := &fleet{t: t, killed: map[host]bool{}}
	var all []*container
	var gossips []string
	for i := range n {
		c := &container{t: t, id: fmt.Sprintf("n%d", i+1)}
		c.docker = dockerPrefix() + "-" + c.id
		c.clientIP, c.peerIP = fmt.Sprintf("%s.%d", clientNet, 11+i), fmt.Sprintf("%s.%d", peerNet, 11+i)
		all, gossips = append(all, c), append(gossips, c.peerIP+":10379")
	}
	for _, c := range all {
		create := []string{"create", "--name", c.docker, "--label", fmt.Sprintf("%s=%d", dockerLabel, os.Getpid()), "--network", clients, "--ip", c.clientIP, image}
		serve := []string{
			"serve", "--id", c.id, "--bootstrap-expect", strconv.Itoa(n), "--join", strings.Join(gossips, ","),
			"--resp-advertise", c.respAddr(), "--http-advertise", c.clientIP + containerHTTP,
			"--peer-advertise", c.peerIP + ":9379", "--gossip-advertise", c.peerIP + ":10379",
		}
		docker(t, append(append(create, serve...), flags...)...)
		t.Cleanup(func() { c.end() })
		docker(t, "network", "connect", "--ip", c.peerIP, peers, c.docker)
		c.start()
		f.hosts = append(f.hosts, c)
	}
	f.mend = func() {
		for _, c := range all {
			if c.away {
				docker(t, "network", "connect", "--ip", c.peerIP, peers, c.docker)
				c.away = false
			}
		}
	}
	f.faults = append(commonFaults(), disconnectFault(peers))
	f.waitReady()
	return f
}

// disconnected is the name of the fault that only containers have.
const disconnected = "disconnect the network"

func disconnectFault(peers string) fault {
	return fault{name: disconnected, strike: func(f *fleet, victims []host, _ *rand.Rand) func() {
		for _, m := range victims {
			if c := m.(*container); !c.away {
				docker(f.t, "network", "disconnect", peers, c.docker)
				c.away = true
			}
		}
		return nil
	}}
}

// end looks at what the node had to say and removes its container.
func (c *container) end() {
	text, err := tryDocker("logs", c.docker)
	if err != nil {
		c.t.Errorf("log of %s: %v", c.id, err)
	}
	checkLogText(c.t, c.id, text)
	removeDocker(c.t, "rm", "-fv", c.docker)
}
