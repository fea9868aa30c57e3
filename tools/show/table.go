// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// table is rows under headings, printed with aligned columns. A heading that starts with ">" aligns its column to the
// right.
type table struct {
	headings []string
	rows     [][]string
}

func newTable(headings ...string) *table { return &table{headings: headings} }

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if row[i] = fmt.Sprint(c); row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) error {
	titles, right := make([]string, len(t.headings)), make([]bool, len(t.headings))
	for i, h := range t.headings {
		titles[i], right[i] = strings.CutPrefix(h, ">")
	}
	rows := append([][]string{titles}, t.rows...)
	widths := make([]int, len(titles))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, line(row, widths, right)); err != nil {
			return err
		}
	}
	return nil
}

func line(row []string, widths []int, right []bool) string {
	var b strings.Builder
	for i, cell := range row {
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i > 0 {
			b.WriteString("  ")
		}
		if right[i] {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}
