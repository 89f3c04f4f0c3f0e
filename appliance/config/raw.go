package config

// The raw structs mirror the file: one field per key, the types that TOML
// has. What their values mean is checked in the other files, on the way to
// the exported structs.

type rawFile struct {
	Site    string       `toml:"site"`
	LAN     rawLAN       `toml:"lan"`
	Boot    rawBoot      `toml:"boot"`
	HTTP    rawHTTP      `toml:"http"`
	TFTP    rawTFTP      `toml:"tftp"`
	Rescue  rawRescue    `toml:"rescue"`
	Ticket  rawTicket    `toml:"ticket"`
	Admin   rawAdmin     `toml:"admin"`
	Notify  rawNotify    `toml:"notify"`
	State   rawState     `toml:"state"`
	Log     rawLog       `toml:"log"`
	Machine []rawMachine `toml:"machine"`

	Uplink []rawUplink `toml:"uplink"`
	Link   rawLink     `toml:"link"`
	VPN    *rawVPN     `toml:"vpn"`
	Modem  []rawModem  `toml:"modem"`
	Text   rawText     `toml:"text"`
}

type rawUplink struct {
	Name      string   `toml:"name"`
	Interface string   `toml:"interface"`
	Modem     string   `toml:"modem"`
	Gateway   string   `toml:"gateway"`
	Metered   *bool    `toml:"metered"`
	Probe     []string `toml:"probe"`
	Interval  string   `toml:"interval"`
}

type rawLink struct {
	Mode        string `toml:"mode"`
	Failback    string `toml:"failback"`
	MaxSwitches int    `toml:"max_switches"`
}

type rawVPN struct {
	Kind       string   `toml:"kind"`
	Interface  string   `toml:"interface"`
	Address    string   `toml:"address"`
	MTU        int      `toml:"mtu"`
	ListenPort int      `toml:"listen_port"`
	ShareLAN   bool     `toml:"share_lan"`
	External   string   `toml:"external"`
	Unit       string   `toml:"unit"`
	Hub        []rawHub `toml:"hub"`
}

type rawHub struct {
	Name             string   `toml:"name"`
	PublicKey        string   `toml:"public_key"`
	PresharedKeyFile string   `toml:"preshared_key_file"`
	Endpoint         []string `toml:"endpoint"`
	AllowedIPs       []string `toml:"allowed_ips"`
	Keepalive        string   `toml:"keepalive"`
	Ping             string   `toml:"ping"`
}

type rawModem struct {
	Name         string   `toml:"name"`
	Port         string   `toml:"port"`
	PINFile      string   `toml:"pin_file"`
	APN          string   `toml:"apn"`
	User         string   `toml:"user"`
	PasswordFile string   `toml:"password_file"`
	Auth         string   `toml:"auth"`
	IP           string   `toml:"ip"`
	Data         string   `toml:"data"`
	Profile      string   `toml:"profile"`
	Interface    string   `toml:"interface"`
	PPPPort      string   `toml:"ppp_port"`
	Roaming      bool     `toml:"roaming"`
	Quota        string   `toml:"quota"`
	BillingDay   int      `toml:"billing_day"`
	Power        []string `toml:"power"`
	Reboot       bool     `toml:"reboot"`
}

type rawText struct {
	Budget int         `toml:"budget"`
	Sender []rawSender `toml:"sender"`
}

type rawSender struct {
	Number string   `toml:"number"`
	Name   string   `toml:"name"`
	May    []string `toml:"may"`
}

type rawTexting struct {
	Name        string   `toml:"name"`
	To          []string `toml:"to"`
	Kinds       []string `toml:"kinds"`
	Credentials bool     `toml:"credentials"`
}

type rawLAN struct {
	Interface  string     `toml:"interface"`
	Address    string     `toml:"address"`
	DHCP       string     `toml:"dhcp"`
	Range      []string   `toml:"range"`
	Router     string     `toml:"router"`
	DNS        []string   `toml:"dns"`
	Domain     string     `toml:"domain"`
	Lease      string     `toml:"lease"`
	KnownShare int        `toml:"known_share"`
	Relay      []rawRelay `toml:"relay"`
}

type rawRelay struct {
	Network string   `toml:"network"`
	Range   []string `toml:"range"`
	Router  string   `toml:"router"`
}

type rawBoot struct {
	Unknown string `toml:"unknown"`
	TTL     string `toml:"ttl"`
	Chain   string `toml:"chain"`
	BootSet string `toml:"bootset"`
}

type rawHTTP struct {
	Port      int    `toml:"port"`
	RateLimit string `toml:"rate_limit"`
}

type rawTFTP struct {
	Port      int `toml:"port"`
	BlockSize int `toml:"block_size"`
}

type rawRescue struct {
	SSHKeys     []string `toml:"ssh_keys"`
	SSHKeysFile string   `toml:"ssh_keys_file"`
}

type rawTicket struct {
	DropDir string `toml:"drop_dir"`
}

type rawAdmin struct {
	Socket string `toml:"socket"`
	Group  string `toml:"group"`
	Listen string `toml:"listen"`
}

type rawNotify struct {
	Webhook []rawWebhook `toml:"webhook"`
	Mail    []rawMail    `toml:"mail"`
	Text    []rawTexting `toml:"text"`
}

type rawWebhook struct {
	Name        string   `toml:"name"`
	URL         string   `toml:"url"`
	URLFile     string   `toml:"url_file"`
	SecretFile  string   `toml:"secret_file"`
	CAFile      string   `toml:"ca_file"`
	Kinds       []string `toml:"kinds"`
	Credentials bool     `toml:"credentials"`
}

type rawMail struct {
	Name         string   `toml:"name"`
	Server       string   `toml:"server"`
	From         string   `toml:"from"`
	To           []string `toml:"to"`
	User         string   `toml:"user"`
	PasswordFile string   `toml:"password_file"`
	TLS          string   `toml:"tls"`
	CAFile       string   `toml:"ca_file"`
	Kinds        []string `toml:"kinds"`
	Credentials  bool     `toml:"credentials"`
}

type rawState struct {
	Dir string `toml:"dir"`
}

type rawLog struct {
	Level string `toml:"level"`
}

type rawMachine struct {
	Name       string   `toml:"name"`
	MAC        []string `toml:"mac"`
	UUID       string   `toml:"uuid"`
	Image      string   `toml:"image"`
	Chain      string   `toml:"chain"`
	BootSet    string   `toml:"bootset"`
	SecureBoot string   `toml:"secure_boot"`
	Dialect    string   `toml:"dialect"`
	LoaderCA   string   `toml:"loader_ca"`
	Address    string   `toml:"address"`
	Firmware   string   `toml:"firmware"`
	Serial     string   `toml:"serial"`
	Speed      int      `toml:"serial_speed"`

	BMC      *rawBMC      `toml:"bmc"`
	Power    *rawPower    `toml:"power"`
	Shutdown *rawShutdown `toml:"shutdown"`
}

type rawPower struct {
	Kind          string   `toml:"kind"`
	URL           string   `toml:"url"`
	User          string   `toml:"user"`
	PasswordFile  string   `toml:"password_file"`
	Host          string   `toml:"host"`
	Model         string   `toml:"model"`
	Outlet        int      `toml:"outlet"`
	CommunityFile string   `toml:"community_file"`
	On            []string `toml:"on"`
	Off           []string `toml:"off"`
	Cycle         []string `toml:"cycle"`
	Status        []string `toml:"status"`
	Number        string   `toml:"number"`
	OnText        string   `toml:"on_text"`
	OffText       string   `toml:"off_text"`
	CycleText     string   `toml:"cycle_text"`
	StatusText    string   `toml:"status_text"`
	OnReply       string   `toml:"on_reply"`
	OffReply      string   `toml:"off_reply"`
}

type rawShutdown struct {
	Kind         string `toml:"kind"`
	Host         string `toml:"host"`
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
	KeyFile      string `toml:"key_file"`
	HostKey      string `toml:"host_key"`

	KDC []string `toml:"kdc"`
}

type rawBMC struct {
	URL          string `toml:"url"`
	System       string `toml:"system"`
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
}

// defaults is what a key means that the file does not name; decoding writes
// over it. Keys that are not here have no default: they must be named, or
// their absence means none. (A machine's are in checker.machine: here are no
// machines yet.)
func defaults() rawFile {
	return rawFile{
		LAN:   rawLAN{DHCP: "auto", Lease: "1h", KnownShare: 25},
		Boot:  rawBoot{Unknown: "local", TTL: "30m", Chain: "auto"},
		HTTP:  rawHTTP{Port: 80, RateLimit: "none"},
		TFTP:  rawTFTP{Port: 69, BlockSize: 1468},
		Admin: rawAdmin{Socket: "/run/rescuebox/api.sock", Group: "rescuebox"},
		State: rawState{Dir: "/var/lib/rescuebox"},
		Log:   rawLog{Level: "info"},
		Link:  rawLink{Mode: "standby", Failback: "1m", MaxSwitches: 12},
		Text:  rawText{Budget: 50},
	}
}
