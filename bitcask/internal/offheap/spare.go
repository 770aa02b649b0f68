package offheap

// A slab's first touch is dear: on a virtual machine its two huge pages can take ten milliseconds. So who asks for a
// block should find its slab ready. The pool keeps one or two spare mappings for that, which are made beside the callers; slabs that
// became free serve again too. Who comes before a spare is ready gets a mapping of small pages, which come one by one.

// spareWantedLocked is how many spare mappings of slabBytes a pool keeps: none while it is small.
func (p *Pool) spareWantedLocked() int {
	switch {
	case p.bytes < 2*slabBytes:
		return 0
	case p.bytes < 16*slabBytes:
		return 1
	}
	return 2
}

// fitsSpare tells whether a spare leaves little over as a slab that needs so many bytes.
func fitsSpare(bytes int) bool { return bytes <= slabBytes && bytes >= slabBytes-slabBytes/32 }

// takeSpareLocked returns a mapping whose pages are all there, nil when none is ready, and has another one made where one is wanted.
func (p *Pool) takeSpareLocked() (mem []byte) {
	if last := len(p.spare) - 1; last >= 0 {
		mem, p.spare[last] = p.spare[last], nil
		p.spare = p.spare[:last]
	}
	if !p.preparing && len(p.spare) < p.spareWantedLocked() {
		p.preparing = true
		go p.prepare()
	}
	return mem
}

// prepare makes spare mappings until there are enough.
func (p *Pool) prepare() {
	for more := true; more; {
		mem, err := mapMemory(slabBytes, true)
		if err == nil {
			for at := 0; at < len(mem); at += hugeBytes { // who maps memory meanwhile has to wait for one huge page only
				populate(mem[at : at+hugeBytes])
			}
		}
		p.mu.Lock()
		if err == nil {
			p.spare = append(p.spare, mem)
			p.dropSpareLocked() // so much may have been freed meanwhile
		}
		more = err == nil && len(p.spare) < p.spareWantedLocked()
		p.preparing = more
		p.mu.Unlock()
	}
}

// dropSpareLocked gives up the spares that are not wanted any more.
func (p *Pool) dropSpareLocked() {
	for last := len(p.spare) - 1; last >= p.spareWantedLocked(); last-- {
		unmapMemory(p.spare[last])
		p.spare[last] = nil
		p.spare = p.spare[:last]
	}
}
