package command

// The commands of class Server are answered by the node, which alone knows what to say. These functions
// read their arguments and lay out the replies, so that the node gives facts only.

import (
	"strconv"
	"strings"
	"time"
)

// Param is one setting that CONFIG GET shows.
type Param struct{ Name, Value string }

// Config answers CONFIG: GET shows the params that match one of the patterns. SET is refused: a setting
// comes from the command line, the environment or the configuration file, and a node that restarts must
// come up with the settings it had.
func Config(args [][]byte, params []Param) Reply {
	switch sub := args[1]; {
	case IsWord(sub, "GET"):
		if len(args) < 3 {
			return WrongArgs("config|get")
		}
		return configGet(args[2:], params)
	case IsWord(sub, "SET"):
		if len(args) < 4 || len(args)%2 != 0 {
			return WrongArgs("config|set")
		}
		return configSet(args[2:], params)
	case IsWord(sub, "HELP"):
		return Help("CONFIG",
			"GET <pattern> [<pattern> ...]", "Show the settings that match a pattern.",
			"SET <directive> <value>", "Refused: settings are given when the node starts.")
	}
	return UnknownSubcommand("CONFIG", args[1])
}

func configGet(patterns [][]byte, params []Param) Reply {
	var out []Reply
	for _, p := range params {
		for _, pattern := range patterns {
			if MatchGlob([]byte(strings.ToLower(string(pattern))), []byte(p.Name)) {
				out = append(out, BulkString(p.Name), BulkString(p.Value))
				break
			}
		}
	}
	return Map(out...)
}

func configSet(pairs [][]byte, params []Param) Reply {
	known := false
	for _, p := range params {
		known = known || strings.EqualFold(p.Name, string(pairs[0]))
	}
	name := string(quote(pairs[0], maxQuoted))
	if !known {
		return Err("ERR Unknown option or number of arguments for CONFIG SET - '" + name + "'")
	}
	return Err("ERR CONFIG SET failed (possibly related to argument '" + name + "') - can't set immutable config")
}

// Section is one part of INFO: a title, and the lines under it.
type Section struct {
	Title string // as "Server"; clients ask for it in lower case
	Lines []Param
}

// Info answers INFO with the sections asked for, all of them for none, "default", "all" or "everything".
func Info(args [][]byte, sections []Section) Reply {
	var b strings.Builder
	for _, s := range sections {
		if !wantsSection(args[1:], s.Title) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("# " + s.Title + "\r\n")
		for _, line := range s.Lines {
			b.WriteString(line.Name + ":" + line.Value + "\r\n")
		}
	}
	return Verbatim(b.String())
}

func wantsSection(names [][]byte, title string) bool {
	for _, name := range names {
		if IsWord(name, strings.ToUpper(title)) || IsWord(name, "DEFAULT") || IsWord(name, "ALL") || IsWord(name, "EVERYTHING") {
			return true
		}
	}
	return len(names) == 0
}

// Time answers TIME: seconds and microseconds.
func Time(now time.Time) Reply {
	return Array(
		Bulk(strconv.AppendInt(nil, now.Unix(), 10)),
		Bulk(strconv.AppendInt(nil, int64(now.Nanosecond()/1000), 10)),
	)
}

// Replica is one follower in the ROLE of a leader.
type Replica struct {
	Host   string
	Port   int
	Offset int64 // the last log index it is known to have
}

// RoleMaster answers ROLE on the leader.
func RoleMaster(offset int64, replicas []Replica) Reply {
	list := make([]Reply, 0, len(replicas))
	for _, r := range replicas {
		list = append(list, Array(BulkString(r.Host), BulkString(strconv.Itoa(r.Port)), BulkString(strconv.FormatInt(r.Offset, 10))))
	}
	return Array(BulkString("master"), Int(offset), Array(list...))
}

// RoleReplica answers ROLE on a follower. state is "connected", or "connect" while no leader is known.
func RoleReplica(host string, port int, state string, offset int64) Reply {
	return Array(BulkString("slave"), BulkString(host), Int(int64(port)), BulkString(state), Int(offset))
}
