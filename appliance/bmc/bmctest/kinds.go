package bmctest

import (
	"net/http"
	"strings"
)

// kind is how a maker's service behaves, where it is not as the standard says.
type kind struct {
	drive        string // that takes images
	attributes   string // Dell's, "" is none
	noSessions   bool
	needsMatch   bool // PATCH without If-Match is refused
	keepsName    bool // ImageName stays after the ejection
	loginRefusal func(w http.ResponseWriter)
	patch        func(one Request) error
	reset        func(kind string, on bool) error
	insert       func(one Request) error
	view         func(resource map[string]any)
}

var kinds = map[string]kind{
	"ilo": {
		drive: "/redfish/v1/Managers/1/VirtualMedia/2",
		// iLO 4 (and with it the DL160 Gen10's iLO 5): a wrong password is a bad request.
		loginRefusal: func(w http.ResponseWriter) {
			Refuse(w, http.StatusBadRequest, "iLO.0.10.UnauthorizedLoginAttempt", "")
		},
		patch: func(one Request) error {
			if bootOf(one)["BootSourceOverrideMode"] != nil {
				return refuse(http.StatusBadRequest, "iLO.2.14.PropertyNotWritableOrUnknown", "BootSourceOverrideMode")
			}
			return nil
		},
		reset: func(kind string, on bool) error {
			switch {
			case kind == "PowerCycle":
				return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterNotSupported", "ResetType")
			case !on && kind != "On" && kind != "PushPowerButton":
				return refuse(http.StatusBadRequest, "iLO.2.14.InvalidOperationForSystemState", "The operation was not successful due to the current power state")
			case on && kind == "On":
				return refuse(http.StatusBadRequest, "iLO.2.14.InvalidOperationForSystemState", "")
			}
			return nil
		},
	},
	"idrac": {
		drive:      "/redfish/v1/Systems/System.Embedded.1/VirtualMedia/1",
		attributes: "/redfish/v1/Managers/iDRAC.Embedded.1/Oem/Dell/DellAttributes/iDRAC.Embedded.1",
		reset: func(kind string, on bool) error {
			if on == (kind == "On") {
				return refuse(http.StatusConflict, "IDRAC.2.4.PSU501", "server is already powered ON or OFF")
			}
			return nil
		},
	},
	"xcc": {
		drive: "/redfish/v1/Managers/1/VirtualMedia/EXT1",
		patch: func(one Request) error {
			if enabled := bootOf(one)["BootSourceOverrideEnabled"]; enabled == "Continuous" {
				return refuse(http.StatusBadRequest, "Base.1.4.PropertyValueNotInList", "BootSourceOverrideEnabled")
			}
			if strings.Contains(one.Path, "/VirtualMedia/Remote") {
				return refuse(http.StatusBadRequest, "Base.1.4.PropertyNotWritable", "Image")
			}
			if strings.Contains(one.Path, "/VirtualMedia/") && one.Body["Inserted"] == nil {
				return refuse(http.StatusBadRequest, "Base.1.4.PropertyMissing", "Inserted")
			}
			return nil
		},
	},
	"supermicro": {
		drive:     "/redfish/v1/Managers/1/VirtualMedia/VirtualMedia1",
		keepsName: true,
		insert: func(one Request) error {
			if one.Body["Inserted"] != nil || one.Body["WriteProtected"] != nil {
				return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterNotSupported", "Inserted")
			}
			return nil
		},
	},
	"ami": {
		drive:      "/redfish/v1/Managers/Self/VirtualMedia/CD1",
		needsMatch: true,
		patch: func(one Request) error {
			if one.Path == "/redfish/v1/Systems/Self" {
				return refuse(http.StatusMethodNotAllowed, "Base.1.4.OperationNotAllowed", "use the settings resource")
			}
			return nil
		},
		reset: func(kind string, on bool) error {
			if kind == "PowerCycle" || kind == "PushPowerButton" {
				return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterValueNotInList", kind)
			}
			return nil
		},
		insert: func(one Request) error {
			if one.Body["TransferProtocolType"] == nil {
				return refuse(http.StatusBadRequest, "Base.1.4.ActionParameterMissing", "#/TransferProtocolType")
			}
			return nil
		},
	},
	"sushy": {
		drive:      "/redfish/v1/Systems/27946b59-9e44-4fa7-8e91-f3527a1ef094/VirtualMedia/Cd",
		noSessions: true,
		reset: func(kind string, on bool) error {
			if kind == "PowerCycle" {
				return refuse(http.StatusNotImplemented, "Base.1.0.GeneralError", "not implemented")
			}
			return nil
		},
		view: func(resource map[string]any) {
			if boot, ok := resource["Boot"].(map[string]any); ok && boot["BootSourceOverrideEnabled"] == "Once" {
				boot["BootSourceOverrideEnabled"] = "Continuous"
			}
		},
	},
}

// bootOf is the Boot object of a change; nil is none.
func bootOf(one Request) map[string]any {
	boot, _ := one.Body["Boot"].(map[string]any)
	return boot
}
