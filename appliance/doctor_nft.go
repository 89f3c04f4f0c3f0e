package appliance

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// ruleset is the packet filter of this host, as `nft --json list ruleset` prints
// it (libnftables-json(5)); iptables' rules are in it too where iptables is the
// one that writes nftables.
type ruleset struct {
	chains []*chain
	sets   map[string][]any // elements, by family/table/name
}

type chain struct {
	Family, Table, Name string
	Type, Hook, Policy  string
	Dev                 any     // netdev: a name or a list of names
	rules               [][]any // their statements
}

// parseRuleset reads nft's JSON.
func parseRuleset(text []byte) (*ruleset, error) {
	var doc struct {
		Nftables []struct {
			Chain *chain
			Rule  *struct {
				Family, Table, Chain string
				Expr                 []any
			}
			Set *struct {
				Family, Table, Name string
				Elem                []any
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read nft's ruleset: %w", err)
	}
	r := &ruleset{sets: map[string][]any{}}
	for _, o := range doc.Nftables {
		switch {
		case o.Chain != nil:
			r.chains = append(r.chains, o.Chain)
		case o.Set != nil:
			r.sets[o.Set.Family+"/"+o.Set.Table+"/"+o.Set.Name] = o.Set.Elem
		case o.Rule != nil:
			if c := r.chain(o.Rule.Family, o.Rule.Table, o.Rule.Chain); c != nil {
				c.rules = append(c.rules, o.Rule.Expr)
			}
		}
	}
	return r, nil
}

func (r *ruleset) chain(family, table, name string) *chain {
	i := slices.IndexFunc(r.chains, func(c *chain) bool { return c.Family == family && c.Table == table && c.Name == name })
	if i < 0 {
		return nil
	}
	return r.chains[i]
}

// arrival is a packet that comes in from a client: the first of its connection.
type arrival struct {
	iface    string
	proto    string // "udp" or "tcp"
	port     int
	src, dst netip.Addr
}

// truth is what can be said of a rule's condition: much that nftables can look
// at we do not model (marks, limits, times).
type truth int

const (
	no truth = iota
	yes
	perhaps
)

// and of several conditions.
func (t truth) and(u truth) truth {
	switch {
	case t == no || u == no:
		return no
	case t == yes && u == yes:
		return yes
	}
	return perhaps
}

// drops reports whether a packet is lost in the packet filter for certain, and in which chain.
func (r *ruleset) drops(p arrival) (where string, dropped bool) {
	for _, c := range r.chains {
		if !c.hears(p) {
			continue
		}
		v, certain := r.walk(c, p, 0)
		if v == "" {
			v = c.Policy
		}
		if v == "drop" && certain {
			return fmt.Sprintf("chain %s of table %s %s", c.Name, c.Family, c.Table), true
		}
	}
	return "", false
}

// hears reports whether a packet to this host comes through a base chain.
func (c *chain) hears(p arrival) bool {
	switch c.Family {
	case "ip", "inet":
		return c.Hook == "input" || c.Hook == "prerouting" || c.Hook == "ingress" && c.on(p.iface)
	case "netdev":
		return c.Hook == "ingress" && c.on(p.iface)
	}
	return false
}

// on reports whether an ingress chain is that of an interface.
func (c *chain) on(iface string) bool {
	switch dev := c.Dev.(type) {
	case string:
		return dev == iface
	case []any:
		return slices.Contains(dev, any(iface))
	}
	return false
}

// maxJumps is as deep as the kernel goes (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

// walk takes a packet through a chain. "" is the end of the chain without a
// verdict. certain is false if a rule that may or may not hold could have decided otherwise.
func (r *ruleset) walk(c *chain, p arrival, depth int) (verdict string, certain bool) {
	certain = true
	for _, expr := range c.rules {
		v, cond := r.rule(c, expr, p, depth)
		if v == "" || cond == no {
			continue
		}
		if cond == perhaps {
			certain = false
			continue
		}
		if v == "return" {
			return "", certain
		}
		return v, certain
	}
	return "", certain
}

// rule is the verdict of one rule, and whether it holds for the packet.
func (r *ruleset) rule(c *chain, expr []any, p arrival, depth int) (verdict string, holds truth) {
	holds = yes
	for _, e := range expr {
		statement, ok := e.(map[string]any)
		if !ok || len(statement) != 1 {
			return "", no
		}
		for kind, body := range statement {
			switch kind {
			case "match":
				holds = holds.and(r.match(c, body, p))
			case "accept", "drop", "return":
				return kind, holds
			case "continue":
				return "", holds
			case "reject":
				return "drop", holds
			case "jump", "goto":
				return r.follow(c, body, p, depth, holds)
			case "vmap":
				v, t := r.verdictMap(c, body, p, depth)
				return v, holds.and(t)
			case "counter", "log", "comment", "notrack", "mangle", "dup", "meta", "set", "ct", "nflog":
			default: // limit, quota, xt and what else there may come to be
				holds = holds.and(perhaps)
			}
			if holds == no {
				return "", no
			}
		}
	}
	return "", holds
}

// follow is the verdict of the chain that a rule leads to.
func (r *ruleset) follow(c *chain, body any, p arrival, depth int, holds truth) (string, truth) {
	to, _ := body.(map[string]any)
	name, _ := to["target"].(string)
	target := r.chain(c.Family, c.Table, name)
	if target == nil || depth >= maxJumps {
		return "", no
	}
	v, certain := r.walk(target, p, depth+1)
	if !certain {
		if v == "" {
			v = "unknown" // some rule there may decide
		}
		return v, perhaps
	}
	return v, holds
}

// verdictMap looks a packet up in "key vmap { value : verdict, … }".
func (r *ruleset) verdictMap(c *chain, body any, p arrival, depth int) (string, truth) {
	m, _ := body.(map[string]any)
	data, _ := m["data"].(map[string]any)
	elems, ok := data["set"].([]any)
	if !ok {
		return "unknown", perhaps // a named map
	}
	for _, e := range elems {
		pair, ok := e.([]any)
		if !ok || len(pair) != 2 {
			continue
		}
		t := r.match(c, map[string]any{"op": "==", "left": m["key"], "right": pair[0]}, p)
		if t == no {
			continue
		}
		v, then := r.rule(c, []any{pair[1]}, p, depth)
		return v, t.and(then)
	}
	return "", no
}

// match evaluates one comparison.
func (r *ruleset) match(c *chain, body any, p arrival) truth {
	m, ok := body.(map[string]any)
	if !ok {
		return perhaps
	}
	value, known := field(m["left"], p)
	if known != yes {
		return known
	}
	t := r.among(c, m["right"], value)
	switch m["op"] {
	case "==", "in":
		return t
	case "!=":
		return map[truth]truth{yes: no, no: yes, perhaps: perhaps}[t]
	}
	return perhaps
}

// field is what a packet has where a rule looks: a string, a number or an
// address; no if the packet has no such field at all, so that the rule does not hold.
func field(left any, p arrival) (value any, known truth) {
	l, _ := left.(map[string]any)
	if ct, ok := l["ct"].(map[string]any); ok && ct["key"] == "state" {
		return "new", yes
	}
	if meta, ok := l["meta"].(map[string]any); ok {
		switch meta["key"] {
		case "iifname", "iif":
			return p.iface, yes
		case "l4proto":
			return p.proto, yes
		case "nfproto":
			return "ipv4", yes
		case "protocol":
			return "ip", yes
		case "pkttype":
			if p.dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
				return "broadcast", yes
			}
			return "host", yes
		}
		return nil, perhaps
	}
	payload, ok := l["payload"].(map[string]any)
	if !ok {
		return nil, perhaps
	}
	switch proto, name := payload["protocol"], payload["field"]; {
	case (proto == p.proto || proto == "th") && name == "dport":
		return p.port, yes
	case proto == "ip" && name == "protocol":
		return p.proto, yes
	case proto == "ip" && name == "saddr":
		return p.src, yes
	case proto == "ip" && name == "daddr":
		return p.dst, yes
	case proto == "udp", proto == "tcp":
		if proto != p.proto {
			return nil, no
		}
	case proto == "ip6", proto == "icmp", proto == "icmpv6", proto == "sctp", proto == "dccp":
		return nil, no
	}
	return nil, perhaps
}

// among compares a value with what a rule has on its right side.
func (r *ruleset) among(c *chain, right, value any) truth {
	switch want := right.(type) {
	case []any:
		return r.any(c, want, value)
	case map[string]any:
		if list, ok := want["set"].([]any); ok {
			return r.any(c, list, value)
		}
		if elem, ok := want["elem"].(map[string]any); ok {
			return r.among(c, elem["val"], value)
		}
		return special(want, value)
	case string:
		if name, ok := strings.CutPrefix(want, "@"); ok {
			elems, known := r.sets[c.Family+"/"+c.Table+"/"+name]
			if !known {
				return perhaps
			}
			return r.any(c, elems, value)
		}
		return equalText(want, value)
	case float64:
		n, ok := value.(int)
		return whether(ok && float64(n) == want)
	}
	return perhaps
}

func (r *ruleset) any(c *chain, list []any, value any) truth {
	result := no
	for _, e := range list {
		switch r.among(c, e, value) {
		case yes:
			return yes
		case perhaps:
			result = perhaps
		}
	}
	return result
}

// special are ranges of ports and addresses, and prefixes.
func special(want map[string]any, value any) truth {
	if p, ok := want["prefix"].(map[string]any); ok {
		text, _ := p["addr"].(string)
		bits, _ := p["len"].(float64)
		net, err := netip.ParsePrefix(fmt.Sprintf("%s/%d", text, int(bits)))
		addr, isAddr := value.(netip.Addr)
		if err != nil || !isAddr {
			return perhaps
		}
		return whether(net.Contains(addr))
	}
	ends, ok := want["range"].([]any)
	if !ok || len(ends) != 2 {
		return perhaps
	}
	switch v := value.(type) {
	case int:
		low, okLow := ends[0].(float64)
		high, okHigh := ends[1].(float64)
		if !okLow || !okHigh {
			return perhaps
		}
		return whether(low <= float64(v) && float64(v) <= high)
	case netip.Addr:
		low, errLow := netip.ParseAddr(fmt.Sprint(ends[0]))
		high, errHigh := netip.ParseAddr(fmt.Sprint(ends[1]))
		if errLow != nil || errHigh != nil {
			return perhaps
		}
		return whether(low.Compare(v) <= 0 && v.Compare(high) <= 0)
	}
	return perhaps
}

// equalText compares names, which nft lets end in "*", and addresses.
func equalText(want string, value any) truth {
	switch v := value.(type) {
	case string:
		ok, err := path.Match(want, v)
		if err != nil {
			return perhaps
		}
		return whether(ok)
	case netip.Addr:
		a, err := netip.ParseAddr(want)
		if err != nil {
			return perhaps
		}
		return whether(a == v)
	}
	return perhaps // a name of a service
}

func whether(b bool) truth {
	if b {
		return yes
	}
	return no
}
