"""What every error code and every exit code means and what to do about it: `skyward explain`, and its reference page.

Each page is Markdown. A test fails when an error class has no page.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One code: `SKW210`, or an exit code as a number (`4`)."""

    code: str
    title: str
    meaning: str
    remedy: str

    @property
    def text(self) -> str:
        """The page as Markdown."""
        name = f"Exit code {self.code}" if self.code.isdigit() else self.code
        return f"# {name}: {self.title}\n\n{self.meaning}\n\n## What to do\n\n{self.remedy}\n"


def _pages(*rows: tuple[str, str, str, str]) -> dict[str, Page]:
    return {
        code: Page(code=code, title=title, meaning=meaning, remedy=remedy)
        for code, title, meaning, remedy in rows
    }


PAGES = _pages(
    # -- usage ---------------------------------------------------------------------------------------------------
    (
        "SKW100",
        "the command or a value in it cannot be understood",
        "An unknown command or option, an option without its value, or a value that is none of those allowed. Nothing was "
        "started and nothing was rented.",
        "Read the hint: it names the nearest spelling or the help page. `skyward COMMAND --help` lists what a command takes.",
    ),
    (
        "SKW101",
        "the target of `skyward run` was not found",
        "A target is `package.module:function`, `file.py:function`, `file.py::function`, or `file.py` for all tasks of a file. "
        "The module, the file or the function in it does not exist, or importing it failed. The import happens on this machine "
        "before anything is rented.",
        "Check the spelling against the names the error lists. If the import itself failed, the traceback shown is of your "
        "module: run `python -c 'import package.module'` in the same directory to see it alone.",
    ),
    (
        "SKW102",
        "the arguments do not fit the task",
        "The arguments after `--` are matched with the function's signature and converted by its annotations, before a cent is "
        "spent. One is missing, unknown, given twice, or cannot be converted.",
        "Give them as `-- --epochs 3` or `-- epochs=3`. The error shows the signature.",
    ),
    (
        "SKW103",
        "not a size, a duration or a range",
        "Sizes, durations and counts are one grammar everywhere: `80GB`, `512MB` (GB and GiB both mean 2**30 bytes), `2h30m`, "
        "`90s`, `7d`, and ranges `24GB..80GB`, `4..`, `..8`. A bare number means GiB, seconds or a count.",
        "Spell the value as in the examples of the error. A bare size or count in a requirement means at least that much.",
    ),
    (
        "SKW104",
        "the output cannot be written",
        "Writing failed, usually because the disk behind the redirected output, or the one that holds our own files, is full.",
        "Free some space, or redirect the output elsewhere, and run the command again. Results of a run are also kept in its "
        "run directory.",
    ),
    (
        "SKW110",
        "no accelerator has this name",
        "Names are looked up in the tables of all plugins, in any vendor's or cloud's spelling: `H100`, `A100-80GB`, "
        "`RTX 4090`, `MI300X`. A family name matches every member of the family.",
        "Take one of the names the error suggests, or list all of them with `skyward accelerators`.",
    ),
    (
        "SKW120",
        "no provider has this name",
        "Providers are plugins. The one that was named is not installed, is blocked (`-p no:NAME`), or failed to load.",
        "`skyward providers` lists what is installed; `skyward plugins` shows what is blocked or broken, and why.",
    ),
    (
        "SKW130",
        "the configuration cannot be used",
        "A key of a configuration file, a `SKYWARD_*` variable or an `-o` option is unknown, in the wrong table, of the wrong "
        "type, or a secret in a place where secrets do not belong. The error names the file and the line.",
        "`skyward config show --origin` shows every effective value and where it was said, `skyward config validate` checks "
        "everything. Secrets go into the provider's own environment variables or into the user's own `config.toml`, never "
        "into a project.",
    ),
    (
        "SKW140",
        "a plugin is broken",
        "A plugin failed to import, implements a hook that does not exist, registers a name that is already taken, or raised in "
        "a hook. Queries go on without it and warn; whatever rents machines stops, because half of the plugins that were asked "
        "for is not what was asked for.",
        "The error names the plugin, its distribution and the line that failed. Update or uninstall it, or leave it out with "
        "`-p no:NAME`. `skyward plugins` lists all of them.",
    ),
    (
        "SKW150",
        "the catalog cannot be asked this",
        "A filter, a column, a sort key, a date or an SQL statement of a price query means nothing, or two of them contradict "
        "each other. SQL may only read.",
        "The error names the part that was not understood and what would be. `skyward catalog info` shows what the catalog holds.",
    ),
    # -- compute -------------------------------------------------------------------------------------------------
    (
        "SKW200",
        "a provider refused",
        "The provider answered a call with an error that is neither about credentials nor about capacity or quota, or did not "
        "answer in time. Its own words are in the causes.",
        "Look at the cause; `skyward check aws` looks for what stands in the way of renting there. If the provider has an "
        "outage, name another one as well: `--provider aws --provider verda` falls back in this order.",
    ),
    (
        "SKW201",
        "no credentials, or they were refused",
        "Every provider reads its vendor's own variables and files; the causes list where it looked. Nothing was rented.",
        "Set what the error names. `skyward providers` shows for every provider whether credentials were found and where; "
        "`skyward check aws` asks AWS whom they belong to, and `skyward check aws --policy` prints what they must allow. To "
        "try without any cloud: `--provider local`.",
    ),
    (
        "SKW202",
        "there is no machine to be had",
        "The provider has none left of this kind in this place at the moment. The next offer of the plan is tried, then the "
        "next provider; this error means that all of them said no. What failed and why is listed.",
        "Allow more: another `--region`, another provider, `--allocation spot-if-available`, a family instead of one model "
        "(`A100` instead of `A100-80GB`), or wait.",
    ),
    (
        "SKW203",
        "the account's quota does not allow it",
        "The account may not hold so many machines of this kind. Waiting does not help; the offers the quota covers are skipped.",
        "Ask the provider to raise the quota the error names (`skyward check aws` shows each, and how to ask for more), use "
        "another region or kind of machine, or fewer nodes.",
    ),
    (
        "SKW204",
        "too many calls to a provider",
        "The provider limits how often it may be asked. Calls were repeated with growing pauses until the deadline passed.",
        "Wait a minute. If something else uses the same account heavily, the limit is shared with it.",
    ),
    (
        "SKW205",
        "nobody knows whether machines were launched",
        "A launch was asked for and the answer never came, however often the same request was repeated. What carries the "
        "pool's tags was looked for and is ended.",
        "`skyward ps` shows what runs. If the network is down it is asked again as soon as any command of Skyward runs.",
    ),
    (
        "SKW210",
        "no offer fits",
        "Nothing on sale satisfies all requirements at once. The causes say how many offers each constraint left over, and how "
        "far the nearest miss is away.",
        "Relax the constraint the hint names. `skyward plan ... --explain` shows every offer that was considered and the first "
        "constraint it failed.",
    ),
    (
        "SKW220",
        "the price catalog cannot be used",
        "Prices could not be read, refreshed or trusted. Files are never changed half: the last good ones stay where they are, "
        "with their own date.",
        "`skyward catalog info` shows what is in use and how old it is, `skyward catalog verify` checks the files, "
        "`skyward catalog refresh` fetches prices anew.",
    ),
    (
        "SKW221",
        "the prices are older than allowed",
        "`--max-age` (or `max_age` in `[catalog]`) sets how old a price may be, and those that answer the question are older.",
        "`skyward catalog refresh` fetches them anew; or allow a greater age.",
    ),
    (
        "SKW222",
        "a file of prices is damaged",
        "The file is cut off, is no catalog, was written by a newer version, or holds prices that cannot be true (zero, "
        "negative, no number). It is refused as a whole and named; the last good prices are used instead, where there are any.",
        "`skyward catalog refresh` writes it anew. If you made the file yourself, the error names the column and the row.",
    ),
    (
        "SKW223",
        "refreshed prices are not believable",
        "A refresh brought prices that jumped, or lost offers, to an extent that is more likely a mistake of the source than "
        "the market. The old prices stay in use with their old date.",
        "Look at the provider's own price page. If the change is real, refresh that provider again and confirm it as the hint says.",
    ),
    # -- values and tasks ----------------------------------------------------------------------------------------
    (
        "SKW300",
        "internal error",
        "Something happened that this version of Skyward did not expect. The traceback is in the log file the error names. "
        "Machines that were rented are terminated as after any other error.",
        "Run the command again with `-vv` to see the traceback at once. Please report it with the log file, which holds the "
        "command line: take out what should not be public.",
    ),
    (
        "SKW301",
        "a value cannot travel",
        "Functions, arguments and results are pickled to travel between machines. The cause shows the path to the object that "
        "cannot be: `closure of f -> 'conn' -> _thread.lock`.",
        "Create such objects (connections, locks, open files, generators) inside the task instead of passing them in, or pass "
        "what is needed to create them.",
    ),
    (
        "SKW310",
        "a task did not succeed",
        "The function was run and did not give a value. What follows `cause:` says why; the traceback shown is of your code, "
        "on the machine it ran on.",
        "Run it here to debug it: `task.local(...)`, or `skyward run TARGET --provider local`. `-k NAME` runs only tasks of that name.",
    ),
    (
        "SKW311",
        "the task raised an exception that cannot be raised here",
        'Its type cannot be imported on this machine, cannot be unpickled, or must not be (`results="safe"`). Its name, text '
        "and remote traceback are kept.",
        "Install the package that defines the exception here, or catch it in the task and raise a built-in one.",
    ),
    (
        "SKW312",
        "the worker process died under the task",
        "The process was killed by a signal or ended itself. SIGKILL with a high peak of memory usually means the machine ran out "
        "of memory; SIGSEGV means a crash in native code; an exit status means that something called `os._exit`.",
        "The error shows the signal, the peak of memory and the last lines of standard error. For memory: a larger `--memory`, "
        "or less `--concurrency`. Other tasks went on in a new process.",
    ),
    (
        "SKW313",
        "the task ran too long",
        "It exceeded its `timeout` and was killed. The limit is wall time on the machine, per attempt.",
        "Raise `timeout` (`--timeout 2h`, `@sky.compute(timeout=...)`), or split the task.",
    ),
    (
        "SKW314",
        "the result is too large",
        "The pickled result exceeds the cap of what a worker may send back.",
        "Write large results to a volume or a bucket and return the path, or return less.",
    ),
    (
        "SKW315",
        "the task was lost",
        "Not the task failed but the machine or the way to it, more often than `retries` allows. The task may have run; its "
        "result did not arrive.",
        "Raise `--retries`, or use machines that are not interrupted (`--allocation on-demand`). Tasks that may run twice "
        "should be written so that this does no harm.",
    ),
    (
        "SKW316",
        "the task was cancelled",
        "It had not started when another task of its group failed, or when the run was interrupted.",
        "With `return_exceptions=True`, one failure does not cancel the rest of a group; `--maxfail` sets how many do.",
    ),
    # -- the way to a machine --------------------------------------------------------------------------------------
    (
        "SKW400",
        "the connection to a machine failed",
        "Something between this machine and the other one went wrong that has no code of its own.",
        "Try the same with plain `ssh`, as the hint shows. A firewall, a VPN or a proxy is the usual reason.",
    ),
    (
        "SKW401",
        "a machine could not be prepared",
        "The machine was reached, but a step of its preparation failed or took too long. The step and the last lines it printed "
        "are shown, with secrets blanked out. A rented machine is terminated and replaced while that is allowed.",
        "Read the last lines: a package that does not exist, a missing system library, or no way to the package index are the "
        "usual reasons. `bootstrap_timeout` sets the deadline.",
    ),
    (
        "SKW402",
        "a machine cannot be reached",
        "There was no answer, the port is closed, the name is unknown, or the handshake hung until the deadline.",
        "Check host, port and network with `ssh -v`. For a machine just rented, the error means that it did not come up in time.",
    ),
    (
        "SKW403",
        "the machine is not the one that is known",
        "Its host key is unknown or differs from the known one. Nothing was sent to it. There is no trust on first use: a key "
        "that nobody vouched for could be anybody's.",
        "If the machine was reinstalled, remove the old key (`ssh-keygen -R HOST`) and add the new one after comparing its "
        "fingerprint on the machine itself. The hint shows the command that fetches it.",
    ),
    (
        "SKW404",
        "the machine does not accept the key",
        "The connection and the host key are fine, but no key that was offered may log in as this user.",
        "Check the user name, and that the public key is in the `authorized_keys` of that user. `key=` names the private key "
        "to use.",
    ),
    (
        "SKW405",
        "the connection was lost",
        "The stream ended without a farewell. Skyward reconnects and picks up where it was; this error means that it could not.",
        "The machine may be gone (an interrupted spot machine, a reboot), or the network broke for longer than the heartbeat allows.",
    ),
    (
        "SKW406",
        "the other side speaks nonsense",
        "Bytes arrived that are not our protocol. Nothing of them was executed, and the machine is not used any more.",
        "A shell start-up file that prints something on every login is the usual reason: `ssh HOST true` must print nothing.",
    ),
    (
        "SKW407",
        "no matching Python on the machine",
        "Tasks travel as pickled code, which needs the same minor version of Python on both sides.",
        'Let Skyward install one (`sky.Image(python="3.12")`), or use the same version here.',
    ),
    (
        "SKW408",
        "the machine's disk is full",
        "There is no space, or there are no inodes, left for the environment or the project.",
        "Rent a larger disk (`--disk 100GB`), or clear the one directory Skyward uses on a machine of your own: "
        "`~/.cache/skyward`.",
    ),
    # -- guards and clean-up -----------------------------------------------------------------------------------------
    (
        "SKW601",
        "a limit stopped it",
        "`--max-cost`, `--timeout` or another limit you set was reached. What ran was stopped and all machines were terminated.",
        "Raise the limit, or ask for less. Results that were complete by then are kept in the run directory.",
    ),
    (
        "SKW701",
        "something may still be billed",
        "A machine was not confirmed as gone. This outranks every other error, because it costs money while nobody looks.",
        "The error names each machine and what it costs. Run the hint's command again until it confirms, or terminate the "
        "machine in the provider's console. The switch set on the machine itself ends it when its lease runs out.",
    ),
    (
        "SKW702",
        "a launch cannot be written down",
        "Before a machine is rented, a line that says so is forced to disk, so that whoever comes after a crash can end it. "
        "That line could not be written (no room, a read-only home, a directory others may write to), so nothing was rented.",
        "Make room, or let `SKYWARD_HOME` name a directory of your own on a disk that can be written to.",
    ),
    # -- exit codes ----------------------------------------------------------------------------------------------------
    ("0", "everything asked for succeeded", "Every task succeeded, or the query had an answer.", "Nothing."),
    (
        "1",
        "it ran, and at least one task failed",
        "The machines did their part; a task raised, was killed, or was lost for good.",
        "The report names what failed. `-k NAME` runs only tasks of that name.",
    ),
    (
        "2",
        "usage or configuration error",
        "The command line, an argument or the configuration cannot be meant. Nothing was started.",
        "The hint names the nearest valid spelling. `skyward explain` with the code in brackets tells more.",
    ),
    (
        "3",
        "internal error, or a plugin crashed",
        "Skyward or a plugin did something unforeseen. Whatever was rented is terminated as after any other error.",
        "Run it with `-vv`, or leave the plugin out with `-p no:NAME`.",
    ),
    (
        "4",
        "compute could not be had",
        "Credentials, quota, capacity, no fitting offer, or a machine that could not be prepared. A script that retries should "
        "retry only this one.",
        "The code in brackets says which of them it was; `skyward explain` it.",
    ),
    (
        "5",
        "nothing was selected or nothing matched",
        "The filters left no task, or no offer.",
        "Loosen `-k` or the filters of the query.",
    ),
    (
        "6",
        "a guard stopped it",
        "A limit such as `--max-cost` or `--timeout` was reached, and everything was stopped because of it.",
        "Raise the limit, or ask for less.",
    ),
    (
        "7",
        "clean-up is incomplete, something may still be billed",
        "Wins over every other exit code.",
        "Do what the error's hint says, now.",
    ),
    (
        "130",
        "interrupted",
        "Ctrl-C stopped it, and clean-up was done.",
        "Nothing. A second Ctrl-C during clean-up would have left machines running.",
    ),
    (
        "143",
        "terminated",
        "SIGTERM stopped it, and clean-up was done. After SIGHUP the code is 129.",
        "Nothing.",
    ),
)
