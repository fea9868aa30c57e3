// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// engine is a containerd of the test's own, in the node's network namespace, and spoken to as a kubelet does.
type engine struct {
	*site
	dir    string
	daemon *daemon
	conn   *grpc.ClientConn
	cri    cri.RuntimeServiceClient
	pods   []string // ids of sandboxes that are to be removed
}

// What has to be said to containerd where a machine has neither CAP_SYS_RESOURCE nor AppArmor, and so that it
// touches nothing outside its directory.
const engineConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[1]s/cni/bin"
    conf_dir = "%[1]s/cni/conf"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
`

// startEngine starts containerd with a network configuration list and the peer image. Its mounts are in a mount
// namespace of its own.
func (s *site) startEngine(conflist []byte, plugins ...string) *engine {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "viaduct-cri-") // short: paths of sockets are
	s.must(err)
	e := &engine{site: s, dir: dir}
	for _, sub := range []string{"cni/bin", "cni/conf"} {
		s.must(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	for _, p := range plugins {
		s.must(os.Symlink(p, filepath.Join(dir, "cni/bin", filepath.Base(p))))
	}
	s.must(os.WriteFile(filepath.Join(dir, "cni/conf/10-net.conflist"), conflist, 0o644))
	config := filepath.Join(dir, "config.toml")
	s.must(os.WriteFile(config, fmt.Appendf(nil, engineConfig, dir, image), 0o644))
	archive := s.buildImage(dir)
	e.daemon = s.start("containerd", "/usr/bin/containerd", "--config", config)
	s.t.Cleanup(e.close)
	e.conn, err = grpc.NewClient("unix://"+dir+"/sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.must(err)
	e.cri = cri.NewRuntimeServiceClient(e.conn)
	s.eventually("containerd to be ready", e.ready)
	e.load(archive)
	return e
}

// load imports an image.
func (e *engine) load(archive string) {
	e.t.Helper()
	ctr := exec.Command("ctr", "-a", e.dir+"/sock", "-n", "k8s.io", "images", "import", archive)
	if text, err := ctr.CombinedOutput(); err != nil {
		e.t.Fatalf("import the image: %v\n%s\n%s", err, text, e.daemon.stderr.last(20))
	}
}

// ready says whether both the runtime and its network are.
func (e *engine) ready() error {
	ctx, cancel := patience()
	defer cancel()
	reply, err := e.cri.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, c := range reply.Status.Conditions {
		if !c.Status {
			err = errors.Join(err, fmt.Errorf("%s: %s %s", c.Type, c.Reason, c.Message))
		}
	}
	return err
}

func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), within)
}

// close removes the sandboxes that are there still, ends containerd, and removes what it made.
func (e *engine) close() {
	for _, id := range e.pods {
		e.remove(id)
	}
	if e.conn != nil {
		e.conn.Close()
	}
	e.daemon.stop()
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + e.cgroup())
	for _, g := range groups {
		if err := unix.Rmdir(g); err != nil {
			e.t.Errorf("remove %s: %v", g, err)
		}
	}
	// The mounts in it end with the mount namespace, a moment after its last process.
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		err := os.RemoveAll(e.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			e.t.Error(err)
			return
		}
	}
}

// cgroup is the parent of the sandboxes' control groups.
func (e *engine) cgroup() string { return "/" + filepath.Base(e.dir) }

// sandbox starts a pod and returns its id and addresses.
func (e *engine) sandbox(name string) (config *cri.PodSandboxConfig, id string, addresses []string) {
	e.t.Helper()
	config = &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: name, LogDirectory: filepath.Join(e.dir, "logs"),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: e.cgroup()},
	}
	ctx, cancel := patience()
	defer cancel()
	run, err := e.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		e.t.Fatalf("run sandbox %s: %v\n%s", name, err, e.daemon.stderr.last(20))
	}
	e.pods = append(e.pods, run.PodSandboxId)
	status, err := e.cri.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: run.PodSandboxId})
	e.must(err)
	addresses = append(addresses, status.Status.Network.Ip)
	for _, more := range status.Status.Network.AdditionalIps {
		addresses = append(addresses, more.Ip)
	}
	return config, run.PodSandboxId, addresses
}

// container starts the peer program in a pod.
func (e *engine) container(pod *cri.PodSandboxConfig, sandbox string, args ...string) (id string) {
	e.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	created, err := e.cri.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "peer"}, Image: &cri.ImageSpec{Image: image}, Args: args,
			LogPath: pod.Metadata.Name + ".log", Linux: &cri.LinuxContainerConfig{},
		},
	})
	if err == nil {
		_, err = e.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	}
	if err != nil {
		e.t.Fatalf("start a container: %v\n%s", err, e.daemon.stderr.last(20))
	}
	return created.ContainerId
}

// ask runs the peer program in a container to ask another.
func (e *engine) ask(container, network, address string) error {
	ctx, cancel := patience()
	defer cancel()
	reply, err := e.cri.ExecSync(ctx, &cri.ExecSyncRequest{
		ContainerId: container, Cmd: []string{"/peer", "ask", network, address}, Timeout: int64(within.Seconds())})
	if err != nil {
		return err
	}
	if reply.ExitCode != 0 {
		return fmt.Errorf("%s", reply.Stderr)
	}
	return nil
}

// remove stops a pod with all that is in it, and forgets it.
func (e *engine) remove(sandbox string) {
	e.t.Helper()
	ctx, cancel := patience()
	defer cancel()
	_, err := e.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
	if err == nil {
		_, err = e.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
	}
	if err != nil {
		e.t.Errorf("remove sandbox: %v\n%s", err, e.daemon.stderr.last(20))
	}
}
