package resp

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/raftcask/raftcask/command"
)

// clientInfo is what a client has said of itself.
type clientInfo struct {
	name, libName, libVer string
	proto                 int
	sub                   string // the last subcommand of CLIENT, for cmd=client|list
}

// connection answers a command of class Connection.
func (c *session) connection(spec *command.Spec, args [][]byte) {
	switch spec.Name {
	case "ping":
		c.reply(ping(args))
	case "echo":
		c.reply(command.Bulk(args[1]))
	case "hello":
		c.hello(args)
	case "auth":
		c.reply(auth(args))
	case "select":
		if bad := command.CheckDBIndex(args[1]); bad != nil {
			c.reply(*bad)
		} else {
			c.reply(command.OK())
		}
	case "client":
		c.reply(c.client(args))
	case "command":
		c.reply(command.Describe(args))
	case "reset":
		c.settle() // what was before it has happened in the old mode
		c.mode = readMode{}
		c.setInfo(func(info *clientInfo) { info.name, info.proto = "", 2 })
		c.replyIn(command.Simple("RESET"), 2)
	case "quit":
		c.quit = true
		c.reply(command.OK())
	default:
		panic("BUG: the session does not know " + spec.Name)
	}
}

func ping(args [][]byte) command.Reply {
	switch len(args) {
	case 1:
		return command.Simple("PONG")
	case 2:
		return command.Bulk(args[1])
	}
	return command.WrongArgs("ping")
}

// setInfo changes what CLIENT LIST shows.
func (c *session) setInfo(change func(*clientInfo)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.info)
}

// hello chooses the version of the protocol: HELLO [protover [AUTH user password] [SETNAME name]].
// Nothing changes if any part of it is wrong.
func (c *session) hello(args [][]byte) {
	c.mu.Lock()
	proto := c.info.proto // not c.proto: that one follows when the replies before this are rendered
	c.mu.Unlock()
	if len(args) > 1 {
		n, ok := command.ParseInt(args[1])
		if !ok {
			c.reply(command.Err("ERR Protocol version is not an integer or out of range"))
			return
		}
		if n != 2 && n != 3 {
			c.reply(command.Err("NOPROTO unsupported protocol version"))
			return
		}
		proto = int(n)
	}
	name, named, bad := helloOptions(args)
	if bad != nil {
		c.reply(*bad)
		return
	}
	c.setInfo(func(info *clientInfo) {
		info.proto = proto
		if named {
			info.name = name
		}
	})
	c.replyIn(command.Map(
		command.BulkString("server"), command.BulkString("redis"),
		command.BulkString("version"), command.BulkString(Version),
		command.BulkString("proto"), command.Int(int64(proto)),
		command.BulkString("id"), command.Int(c.id),
		command.BulkString("mode"), command.BulkString("standalone"),
		command.BulkString("role"), command.BulkString(c.srv.role()),
		command.BulkString("modules"), command.Array(),
	), proto)
}

// helloOptions reads what follows the version.
func helloOptions(args [][]byte) (name string, named bool, bad *command.Reply) {
	var refused *command.Reply
	for i := 2; i < len(args); i++ {
		switch left := len(args) - 1 - i; {
		case command.IsWord(args[i], "AUTH") && left >= 2:
			if r := checkUser(args[i+1]); r.IsErr() {
				refused = &r // but what else is wrong comes first
			}
			i += 2
		case command.IsWord(args[i], "SETNAME") && left >= 1:
			i++
			if !printable(args[i]) {
				return "", false, &errClientName
			}
			name, named = string(args[i]), true
		default:
			r := command.Err("ERR Syntax error in HELLO option '" + string(args[i][:min(len(args[i]), 128)]) + "'")
			return "", false, &r
		}
	}
	return name, named, refused
}

var (
	errClientName = command.Err("ERR Client names cannot contain spaces, newlines or special characters.")
	errSyntax     = command.Err("ERR syntax error")
)

// auth answers AUTH [user] password. No passwords are configured, which Redis treats in two ways: the user "default"
// may come in with any password, and a password without a user is told that nothing is protected by it.
func auth(args [][]byte) command.Reply {
	switch len(args) {
	case 2:
		return command.Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
	case 3:
		return checkUser(args[1])
	}
	return errSyntax
}

func checkUser(user []byte) command.Reply {
	if string(user) != "default" {
		return command.Err("WRONGPASS invalid username-password pair or user is disabled.")
	}
	return command.OK()
}

// printable reports whether b may be a name in CLIENT LIST, whose fields are separated by spaces.
func printable(b []byte) bool {
	for _, ch := range b {
		if ch < '!' || ch > '~' {
			return false
		}
	}
	return true
}

// client answers CLIENT.
func (c *session) client(args [][]byte) command.Reply {
	sub := strings.ToLower(string(args[1][:min(len(args[1]), 16)]))
	arity := map[string]int{
		"id": 2, "getname": 2, "setname": 3, "setinfo": 4, "info": 2, "list": -2, "no-evict": 3, "no-touch": 3, "help": 2,
	}[sub]
	switch {
	case arity == 0:
		return command.UnknownSubcommand("CLIENT", args[1])
	case arity > 0 && len(args) != arity:
		return command.WrongArgs("client|" + sub)
	}
	c.setInfo(func(info *clientInfo) { info.sub = sub })
	switch sub {
	case "id":
		return command.Int(c.id)
	case "getname":
		return c.clientName()
	case "setname":
		if !printable(args[2]) {
			return errClientName
		}
		c.setInfo(func(info *clientInfo) { info.name = string(args[2]) })
		return command.OK()
	case "setinfo":
		return c.clientSetInfo(args[2], args[3])
	case "info":
		return command.Verbatim(c.describe(time.Now()))
	case "list":
		return c.clientList(args[2:])
	case "no-evict", "no-touch": // there is no eviction: both hold already
		if !command.IsWord(args[2], "ON") && !command.IsWord(args[2], "OFF") {
			return errSyntax
		}
		return command.OK()
	}
	return clientHelp()
}

func clientHelp() command.Reply {
	return command.Help("CLIENT",
		"GETNAME", "Answer the name of this connection.",
		"ID", "Answer the number of this connection.",
		"INFO", "Describe this connection.",
		"LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <id> [<id> ...]]", "Describe all connections, or some.",
		"NO-EVICT (ON|OFF)", "Accepted; connections are not evicted.",
		"NO-TOUCH (ON|OFF)", "Accepted; reading does not change a key.",
		"SETINFO (LIB-NAME|LIB-VER) <value>", "Tell the name or version of the client library.",
		"SETNAME <name>", "Give this connection a name.",
	)
}

func (c *session) clientName() command.Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.info.name == "" {
		return command.Nil()
	}
	return command.BulkString(c.info.name)
}

func (c *session) clientSetInfo(option, value []byte) command.Reply {
	var field string
	switch {
	case command.IsWord(option, "LIB-NAME"):
		field = "lib-name"
	case command.IsWord(option, "LIB-VER"):
		field = "lib-ver"
	default:
		return command.Err("ERR Unrecognized option '" + string(option[:min(len(option), 128)]) + "'")
	}
	if !printable(value) {
		return command.Err("ERR " + field + " cannot contain spaces, newlines or special characters.")
	}
	c.setInfo(func(info *clientInfo) {
		if field == "lib-name" {
			info.libName = string(value)
		} else {
			info.libVer = string(value)
		}
	})
	return command.OK()
}

// clientList answers CLIENT LIST [TYPE type | ID id …].
func (c *session) clientList(args [][]byte) command.Reply {
	keep := func(*session) bool { return true }
	switch {
	case len(args) == 0:
	case len(args) == 2 && command.IsWord(args[0], "TYPE"):
		switch t := args[1]; {
		case command.IsWord(t, "NORMAL"):
		case command.IsWord(t, "MASTER"), command.IsWord(t, "REPLICA"), command.IsWord(t, "SLAVE"), command.IsWord(t, "PUBSUB"):
			keep = func(*session) bool { return false }
		default:
			return command.Err("ERR Unknown client type '" + string(t[:min(len(t), 128)]) + "'")
		}
	case len(args) >= 2 && command.IsWord(args[0], "ID"):
		ids := map[int64]bool{}
		for _, arg := range args[1:] {
			id, ok := command.ParseInt(arg)
			if !ok || id < 1 {
				return command.Err("ERR Invalid client ID")
			}
			ids[id] = true
		}
		keep = func(other *session) bool { return ids[other.id] }
	default:
		return errSyntax
	}
	var list strings.Builder
	now := time.Now()
	for _, other := range c.srv.list() {
		if keep(other) {
			list.WriteString(other.describe(now))
		}
	}
	return command.Verbatim(list.String())
}

// describe is the line of CLIENT LIST. It has every field of Redis 7.4, because some clients parse it
// strictly; those that mean nothing here are zero.
func (c *session) describe(now time.Time) string {
	c.mu.Lock()
	info := c.info
	c.mu.Unlock()
	cmd := "NULL"
	if spec := c.lastSpec.Load(); spec != nil {
		cmd = spec.Name
		if cmd == "client" && info.sub != "" {
			cmd += "|" + info.sub
		}
	}
	idle := now.Sub(time.UnixMilli(c.lastActive.Load()))
	return fmt.Sprintf("id=%d addr=%s laddr=%s fd=0 name=%s age=%s idle=%s flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 watch=0 "+
		"qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%d tot-mem=0 events=r cmd=%s user=default redir=-1 "+
		"resp=%d lib-name=%s lib-ver=%s\n",
		c.id, c.conn.RemoteAddr(), c.conn.LocalAddr(), info.name, seconds(now.Sub(c.created)), seconds(idle), c.out.pending(), cmd,
		info.proto, info.libName, info.libVer)
}

func seconds(d time.Duration) string { return strconv.FormatInt(max(int64(d/time.Second), 0), 10) }
