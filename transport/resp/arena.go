package resp

const (
	// minChunk and maxChunk bound one allocation for the bytes of small arguments.
	minChunk = 2 << 10
	maxChunk = 32 << 10
	// minHeads is one allocation for the slices of arguments: 21 SETs.
	minHeads = 64
	// maxKept is how many bytes of arguments the arena may still hold on to between batches.
	maxKept = 64 << 10
)

// arena holds the arguments of commands. They leave the read buffer, because those who run a command keep
// them: a key and a value stay in the proposer until they are applied. So the memory is never used
// again, only filled up: a chunk serves many small arguments, of one batch or the next.
type arena struct {
	chunk []byte   // filled up to its length
	heads [][]byte // filled up to its length
	start int      // heads[start:] are the arguments of the command in progress
	kept  int      // bytes that heads points at
}

// expect prepares for a command of n arguments. n is only announced, so little is believed of it.
func (a *arena) expect(n int) {
	if n = min(n, 16*minHeads); cap(a.heads)-len(a.heads) < n {
		a.moreHeads(max(n, minHeads))
	}
}

func (a *arena) moreHeads(n int) {
	heads := make([][]byte, 0, n)
	a.heads = append(heads, a.heads[a.start:]...)
	a.start, a.kept = 0, 0
	for _, arg := range a.heads {
		a.kept += len(arg)
	}
}

// add copies b. buffered is how many bytes of input there are, the most that will come in this batch.
func (a *arena) add(b []byte, buffered int) {
	if cap(a.chunk)-len(a.chunk) < len(b) {
		if len(b) >= minChunk {
			a.own(append([]byte(nil), b...))
			return
		}
		a.chunk = make([]byte, 0, min(max(buffered, minChunk), maxChunk))
	}
	from := len(a.chunk)
	a.chunk = append(a.chunk, b...)
	a.own(a.chunk[from:len(a.chunk):len(a.chunk)])
}

// own takes b as it is.
func (a *arena) own(b []byte) {
	if len(a.heads) == cap(a.heads) {
		a.moreHeads(max(minHeads, 2*(len(a.heads)-a.start)))
	}
	a.heads = append(a.heads, b)
	a.kept += len(b)
}

// take ends the command in progress and returns its arguments.
func (a *arena) take() [][]byte {
	args := a.heads[a.start:len(a.heads):len(a.heads)]
	a.start = len(a.heads)
	return args
}

// drop gives up the arguments of the command in progress.
func (a *arena) drop() {
	a.heads = nil // not a.heads[:a.start], whose capacity would still hold them
	a.start, a.kept = 0, 0
}

// release lets go of the arguments of the commands that are done, if they are large. Those of the command
// in progress stay.
func (a *arena) release() {
	if a.start > 0 && a.kept > maxKept {
		a.moreHeads(max(minHeads, len(a.heads)-a.start))
	}
}

// rest gives back all memory but the arguments of the command in progress.
func (a *arena) rest() {
	a.chunk = nil
	if a.start == len(a.heads) {
		*a = arena{}
		return
	}
	a.moreHeads(len(a.heads) - a.start)
}
