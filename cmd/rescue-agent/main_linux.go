package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "big" {
		_, err := fmt.Println(strings.Join(bigText(printable(args[1])), "\n"))
		return err
	}
	order, err := readOrder()
	if err != nil {
		return err
	}
	fetch := len(args) == 2 && args[0] == "fetch"
	if len(args) != 0 && !fetch {
		return &badCmdline{"usage: rescue-agent [fetch FILE | big TEXT]"}
	}
	if order, err = newFinder(os.Stdout).complete(ctx, order); err != nil {
		return err
	}
	if fetch {
		return fetchRoot(ctx, order, args[1], os.Stdout)
	}
	return newAgent(order).run(ctx)
}
