// promql reads expressions, one JSON string a line, as Prometheus does, and says what is wrong with each that is.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	reader := parser.NewParser(parser.Options{})
	for lines.Scan() {
		var expression string
		if err := json.Unmarshal(lines.Bytes(), &expression); err != nil {
			log.Fatal(err)
		}
		if _, err := reader.ParseExpr(expression); err != nil {
			fmt.Printf("%s: %s\n", expression, err)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
