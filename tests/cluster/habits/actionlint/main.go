// actionlint says of each workflow of GitHub whose path stands on a line of standard input what is wrong with it.
package main

import (
	"bufio"
	"log"
	"os"

	"github.com/rhysd/actionlint"
)

func main() {
	linter, err := actionlint.NewLinter(os.Stdout, &actionlint.LinterOptions{Oneline: true, Color: actionlint.ColorOptionKindNever})
	if err != nil {
		log.Fatal(err)
	}
	paths := bufio.NewScanner(os.Stdin)
	for paths.Scan() {
		if _, err := linter.LintFile(paths.Text(), nil); err != nil {
			log.Fatal(err)
		}
	}
}
