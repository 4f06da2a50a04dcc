# Lists the targets of a Makefile: `##@ group` begins a group, `target: … ## text` is a target.
BEGIN { FS = ":.*## " }
/^##@ / { printf "\n%s\n", substr($0, 5) }
/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $1, $2 }
