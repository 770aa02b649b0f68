package client

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	broken := errors.New("EOF")
	for _, test := range []struct {
		err  error
		want string
	}{
		{&UnknownError{`INCR "n"`, broken}, `client: INCR "n" may or may not have been applied: EOF; read the key before you write again`},
		{
			&UnknownError{`INCR "n"`, errors.New("UNKNOWN it may have been; read the key before you retry")},
			`client: INCR "n" may or may not have been applied: UNKNOWN it may have been; read the key before you retry`,
		},
		{
			&UnknownError{`RAFTCASK "REMOVE"`, broken},
			`client: RAFTCASK "REMOVE" may or may not have been applied: EOF; look at "raftcask cluster members" before you try again`,
		},
		{
			&UnknownError{`RAFTCASK "REMOVE"`, errors.New(`UNKNOWN time is over; look at "raftcask cluster members" before you try again`)},
			`client: RAFTCASK "REMOVE" may or may not have been applied: UNKNOWN time is over; look at "raftcask cluster members" before you try again`,
		},
		{
			&NotAppliedError{`INCR "n"`, 3, 1500 * time.Millisecond, broken},
			`client: INCR "n" was not applied: gave up after 3 tries in 1.5s: EOF; it is safe to try again`,
		},
		{&NotAppliedError{"FLUSHALL", 0, 0, broken}, "client: FLUSHALL was not applied: gave up before the first try: EOF; it is safe to try again"},
		{
			&UnavailableError{`GET "k"`, 1, time.Second, broken},
			`client: GET "k" was not answered: gave up after 1 try in 1s: EOF; check that a majority of the nodes is up and reachable`,
		},
		{&ServerError{`GET "k"`, "WRONGTYPE no"}, `client: GET "k": WRONGTYPE no`},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
		if strings.Contains(test.want, "EOF") && !errors.Is(test.err, broken) {
			t.Errorf("%v does not unwrap to its cause", test.err)
		}
	}
}

// TestLookingAtTheClusterIsNoWrite: nothing of it could have been applied.
func TestLookingAtTheClusterIsNoWrite(t *testing.T) {
	for sub, write := range map[string]bool{"STATUS": false, "members": false, "REMOVE": true, "TRANSFER": true} {
		r, err := parse([]any{"RAFTCASK", sub})
		if err != nil || r.write != write {
			t.Errorf("RAFTCASK %s: write %v, %v", sub, r.write, err)
		}
	}
}
