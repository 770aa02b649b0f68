package bitcask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"path/filepath"

	"github.com/raftcask/raftcask/internal/vfs"
)

const (
	manifestName   = "MANIFEST"
	manifestFormat = 1
	lockName       = "LOCK"
)

// manifest is the single commit point of a store: what it does not name does
// not exist. It is small (some 200 bytes a segment), so each edit writes it
// anew beside the old one and renames it. It is JSON under a CRC, for the person
// who has to read it during an incident.
type manifest struct {
	Format  int    `json:"format"`
	StoreID uid    `json:"store_id"`
	NextID  uint32 `json:"next_id"` // of a segment; ids are never reused
	// Applied is the highest index known committed; what the log holds beyond
	// it waits for Commit. Open may find a higher one in the log itself.
	AppliedIndex uint64 `json:"applied_index"`
	AppliedTerm  uint64 `json:"applied_term"`
	// Cleared: records with a version below it are gone.
	Cleared uint64 `json:"cleared,omitempty"`
	// Forgotten: entries up to this index are no longer needed as log.
	Forgotten uint64 `json:"forgotten,omitempty"`
	// Time is the highest leader time in a committed entry, ms since 1970.
	Time        int64            `json:"time,omitempty"`
	Segments    []segmentMeta    `json:"segments"`
	Active      uint32           `json:"active"`
	Checkpoints []checkpointMeta `json:"checkpoints,omitempty"`
}

// segmentMeta describes one segment.
type segmentMeta struct {
	ID   uint32      `json:"id"`
	UID  uid         `json:"uid"`
	Kind segmentKind `json:"kind"` // 1 log, 2 merged
	// Size is the end of the last frame of a sealed segment, 0 for the active one.
	Size int64 `json:"size,omitempty"`
	// Synced: an offset that the active segment was synced up to.
	Synced int64 `json:"synced,omitempty"`
	// First and Last are entry indexes, or versions in a merged segment.
	First uint64 `json:"first,omitempty"`
	Last  uint64 `json:"last,omitempty"`
}

// checkpointMeta is a saved checkpoint: its segments stay until it is dropped.
type checkpointMeta struct {
	Name         string        `json:"name"`
	AppliedIndex uint64        `json:"applied_index"`
	AppliedTerm  uint64        `json:"applied_term"`
	Cleared      uint64        `json:"cleared,omitempty"`
	Time         int64         `json:"time,omitempty"`
	Segments     []segmentMeta `json:"segments"` // Size is the part that belongs to the checkpoint
	Info         []byte        `json:"info"`     // the caller's, opaque
}

// encodeManifest: one line with the format, the length and the CRC32C of the JSON
// that follows.
func encodeManifest(m *manifest) ([]byte, error) {
	body, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	body = append(body, '\n')
	head := manifestHead(body)
	return append([]byte(head), body...), nil
}

func manifestHead(body []byte) string {
	return fmt.Sprintf("raftcask manifest %d length %d crc32c %08x\n", manifestFormat, len(body), crc32.Checksum(body, castagnoli))
}

func decodeManifest(data []byte) (*manifest, error) {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return nil, errors.New("it has no first line")
	}
	var format, length int
	var sum uint32
	if _, err := fmt.Sscanf(string(head), "raftcask manifest %d length %d crc32c %08x", &format, &length, &sum); err != nil {
		return nil, errors.New("its first line is damaged")
	}
	if format != manifestFormat {
		return nil, fmt.Errorf("manifest format %d is not known to this version", format)
	}
	if want := manifestHead(body); string(head)+"\n" != want {
		return nil, fmt.Errorf("its first line should be %q", want)
	}
	m := new(manifest)
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("its content is damaged: %w", err)
	}
	return m, m.validate()
}

// validate holds what every later step trusts.
func (m *manifest) validate() error {
	if m.Format != manifestFormat {
		return fmt.Errorf("its content has format %d", m.Format)
	}
	seen := make(map[uint32]bool)
	for _, s := range m.Segments {
		switch {
		case s.ID == 0 || s.ID >= m.NextID:
			return fmt.Errorf("segment id %d is out of range", s.ID)
		case seen[s.ID]:
			return fmt.Errorf("segment %d is named twice", s.ID)
		case s.Kind != logSegment && s.Kind != mergedSegment:
			return fmt.Errorf("segment %d is of unknown kind %d", s.ID, s.Kind)
		case s.ID != m.Active && s.Size < segmentHeaderBytes:
			return fmt.Errorf("sealed segment %d has size %d", s.ID, s.Size)
		}
		seen[s.ID] = true
	}
	if !seen[m.Active] {
		return fmt.Errorf("active segment %d is not listed", m.Active)
	}
	for _, c := range m.Checkpoints {
		for _, s := range c.Segments {
			if s.ID == 0 || s.ID >= m.NextID || s.Size < segmentHeaderBytes {
				return fmt.Errorf("checkpoint %q: segment id %d, size %d is out of range", c.Name, s.ID, s.Size)
			}
		}
	}
	return nil
}

// readManifest returns nil without an error when the directory holds none.
func readManifest(fs vfs.FS, dir string) (*manifest, error) {
	name := filepath.Join(dir, manifestName)
	data, err := vfs.ReadFile(fs, name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	m, err := decodeManifest(data)
	if err != nil {
		return nil, &CorruptError{File: name, Reason: err.Error()}
	}
	return m, nil
}

// writeManifest makes m the truth: when it returns nil, and only then, a crash
// finds m. After an error either may be found, which callers treat as a failed sync.
func writeManifest(fs vfs.FS, dir string, m *manifest) error {
	data, err := encodeManifest(m)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, manifestName)
	tmp := name + ".tmp"
	_ = fs.Remove(tmp) // left from a crash
	if err := vfs.WriteFileSync(fs, tmp, data); err != nil {
		_ = fs.Remove(tmp)
		err = fmt.Errorf("write %s: %w", tmp, err)
		if errors.Is(err, vfs.ErrSync) && !isNoSpace(err) { // without room the old manifest stays, and that is all
			return &syncError{err}
		}
		return err
	}
	if err := fs.Rename(tmp, name); err != nil {
		return &syncError{fmt.Errorf("rename %s: %w", tmp, err)}
	}
	if err := fs.SyncDir(dir); err != nil {
		return &syncError{fmt.Errorf("sync %s: %w", dir, err)}
	}
	return nil
}
