package integration

import (
	"context"
	"math/rand/v2"
	"time"
)

// A leader that was paused, or whose disk hung, finds requests in its sockets when it goes on. Those of patient clients began
// before the pause, and any answer to them is right. So there is a client at each node that gives every read up soon and
// begins another one: its last read began long after the pause, and after others have written elsewhere.

const (
	impatientKind = "impatient read"
	patience      = 150 * time.Millisecond
)

func (f *traffic) startImpatientReads(ctx context.Context, rng *rand.Rand) {
	for i, addr := range f.addrs {
		clientRng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		f.wg.Go(func() {
			c := &rawCaller{addr: addr}
			defer c.close()
			for ctx.Err() == nil {
				f.gate.RLock()
				group := f.group(kinds[0].name, clientRng)
				f.operateWithin(patience, impatientID+i, f.counts[impatientKind], group, c, one("GET", group+"-0"))
				f.gate.RUnlock()
				pause(ctx, span(clientRng, 2*pace))
			}
		})
	}
}

// impatientID is the first number of these clients in the histories.
const impatientID = 500
