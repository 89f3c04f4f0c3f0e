package main

import "github.com/spf13/cobra"

// imageCommand is "rescuebox image".
func imageCommand(c *cli) *cobra.Command {
	return group("image", "Images that machines can boot", "  rescuebox image list")
}
