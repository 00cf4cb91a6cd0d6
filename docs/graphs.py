"""The graphs of the derivation pages: nodes with their places, and edges.  :mod:`figures` draws them.

The names are those of the page; a label on a backward arrow is the factor in the page's equation.
"""

from figures import Edge, Graph, Node

DECAY, PSI, MINUS_PSI = r"$\mathit{decay}$", r"$\psi$", r"$-\psi$"


def _lif() -> Graph:
    nodes = {
        "before": Node((0.15, 2.4), r"$\cdots$", "word"),
        "after": Node((4.3, 2.4), r"$\cdots$", "word"),
        "v": Node((2.13, 2.4), "v[t]"),
        "theta": Node((2.13, 0.55), r"\theta", "given", kept=True),
    }
    edges = [Edge("before", "u", DECAY, DECAY), Edge("u", "v", "$1-s$", "$1-s$"), Edge("v", "u1", DECAY, DECAY)]
    for tag, t, x in (("", "t", 1.03), ("1", "t+1", 3.3)):
        nodes |= {
            f"x{tag}": Node((x, 3.3), f"x[{t}]", "given", kept=True),
            f"u{tag}": Node((x, 2.4), f"u[{t}]", kept=True),
            f"s{tag}": Node((x, 1.3), f"s[{t}]", "spike", kept=True),
            f"up{tag}": Node((x, 0.35), "layer above", "word", back=rf"$d_{{\mathrm{{spikes}}}}[{t}]$"),
        }
        edges += [
            Edge(f"x{tag}", f"u{tag}", "", "$1$"),
            Edge(f"u{tag}", f"s{tag}", "$H$", PSI, "jump", side="left" if not tag else "right"),
            Edge(f"s{tag}", f"up{tag}", "", "", "spike"),
            Edge("theta", f"s{tag}", "", MINUS_PSI, along=0.42),
        ]
    edges += [
        Edge("s", "v", "reset", "$-u$", "spike", side="right", along=0.45),
        Edge("u1", "after", "", "$1-s$", along=0.68),
    ]
    return Graph(nodes, edges, (4.4, 3.6))


def _resets() -> Graph:
    nodes = {
        "x": Node((0.8, 3.2), "x[t]", "given"),
        "u": Node((0.8, 2.3), "u[t]", kept=True),
        "v": Node((3.4, 2.3), "v[t]"),
        "next": Node((4.25, 2.3), r"$\cdots$", "word"),
        "s": Node((1.7, 1.3), "s[t]", "spike", kept=True),
        "theta": Node((3.4, 0.4), r"\theta", "given", kept=True),
        "up": Node((0.75, 0.4), "layer above", "word", back=r"$d_{\mathrm{spikes}}[t]$"),
    }
    edges = [
        Edge("x", "u", "", "$1$"),
        Edge("u", "v", r"$1-s$ | $1$", r"$1-s$ | $1$"),
        Edge("u", "s", "$H$", PSI, "jump", side="left"),
        Edge("theta", "s", "", MINUS_PSI, side="below", along=0.55),
        Edge("s", "up", "", "", "spike"),
        Edge("s", "v", "(A)", r"(A)  $-u$ | $-\theta$", "spike", side="below right", along=0.33),
        Edge("theta", "v", "(B)", r"(B)  $0$ | $-s$", side="right"),
        Edge("v", "next", "", ""),
    ]
    return Graph(nodes, edges, (4.4, 3.5))


def _recurrent() -> Graph:
    nodes = {
        "before": Node((0.15, 2.5), r"$\cdots$", "word"),
        "x": Node((0.85, 3.5), "x[t]", "given"),
        "i": Node((0.85, 2.5), "i[t]", kept=True),
        "u": Node((0.85, 1.4), "u[t]", kept=True),
        "s": Node((2.05, 2.5), "s[t]", "spike", kept=True),
        "v": Node((2.05, 0.45), "v[t]"),
        "up": Node((2.05, 3.5), "layer above", "word", back=r"$d_{\mathrm{spikes}}[t]$"),
        "W": Node((2.92, 3.5), "W", "given", kept=True),
        "x1": Node((3.7, 3.5), "x[t+1]", "given"),
        "i1": Node((3.7, 2.5), "i[t+1]", kept=True),
        "u1": Node((3.7, 1.4), "u[t+1]", kept=True),
        "after": Node((3.7, 0.45), r"$\cdots$", "word"),
    }
    edges = [
        Edge("before", "i", "", ""),
        Edge("x", "i", "", "$1$"),
        Edge("i", "u", "", "$1$", side="left"),
        Edge("u", "s", "$H$", PSI, "jump", side="left"),
        Edge("s", "up", "", "", "spike"),
        Edge("s", "i1", "$W$", r"$W^{\mathsf{T}}$", "spike", side="below"),
        Edge("W", "i1", "", r"$s[t]^{\mathsf{T}}$", side="left", along=0.55),
        Edge("x1", "i1", "", "$1$"),
        Edge("i1", "u1", "", "$1$"),
        Edge("u", "v", "$1-s$", "$1-s$", side="left"),
        Edge("s", "v", "reset", "$-u$", "spike", along=0.4),
        Edge("v", "u1", DECAY, DECAY, side="below", along=0.6),
        Edge("u1", "after", "", ""),
    ]
    return Graph(nodes, edges, (4.4, 3.8))


def _current_lif() -> Graph:
    nodes = {
        "i0": Node((0.15, 2.75), r"$\cdots$", "word"),
        "u0": Node((0.15, 1.65), r"$\cdots$", "word"),
        "v": Node((2.1, 1.65), "v[t]"),
        "i2": Node((4.25, 2.75), r"$\cdots$", "word"),
        "u2": Node((4.25, 1.65), r"$\cdots$", "word"),
    }
    syn = r"$\mathit{decay}_{\mathrm{syn}}$"
    edges = [Edge("i0", "i", "", ""), Edge("u0", "u", "", "")]
    for tag, t, x in (("", "t", 0.9), ("1", "t+1", 3.35)):
        nodes |= {
            f"x{tag}": Node((x, 3.65), f"x[{t}]", "given", kept=True),
            f"i{tag}": Node((x, 2.75), f"i[{t}]", kept=True),
            f"u{tag}": Node((x, 1.65), f"u[{t}]", kept=True),
            f"s{tag}": Node((x, 0.55), f"s[{t}]", "spike", kept=True),
        }
        edges += [
            Edge(f"x{tag}", f"i{tag}", "", "$1$"),
            Edge(f"i{tag}", f"u{tag}", "", "$1$"),
            Edge(f"u{tag}", f"s{tag}", "$H$", PSI, "jump", side="left" if not tag else "right"),
        ]
    edges += [
        Edge("i", "i1", syn, syn),
        Edge("u", "v", "$1-s$", "$1-s$"),
        Edge("s", "v", "reset", "$-u$", "spike", side="right", along=0.4),
        Edge("v", "u1", DECAY, DECAY),
        Edge("i1", "i2", "", ""),
        Edge("u1", "u2", "", ""),
    ]
    return Graph(nodes, edges, (4.4, 3.95))


def _neurons() -> Graph:
    nodes = {
        "v0": Node((0.6, 1.5), "v[t-1]"),
        "x": Node((1.5, 2.9), "x[t]", "given", kept=True),
        "decay": Node((3.2, 2.9), r"\mathit{decay}", "given", kept=True),
        "u": Node((2.35, 1.5), "u[t]", kept=True),
        "s": Node((2.35, 0.4), "s[t]", "spike", kept=True),
        "v": Node((3.8, 1.5), "v[t]"),
    }
    edges = [
        Edge("v0", "u", "(c)", "(c)"),
        Edge("x", "u", "", r"$1$, $1-\mathit{decay}$, $1$", side="left", along=0.45),
        Edge("decay", "u", "", "none, $v-x$, $v(v-1)$", side="right", along=0.45),
        Edge("u", "s", "$H$", PSI, "jump", side="left"),
        Edge("u", "v", "", "reset"),
        Edge("s", "v", "reset", "reset", "spike", side="right", along=0.45),
    ]
    return Graph(nodes, edges, (4.4, 3.2))


def _readouts() -> Graph:
    nodes = {
        "between": Node((2.45, 1.6), r"$\cdots$", "word"),
        "z": Node((3.7, 0.4), "z", "given"),
    }
    for key, t, x in (("0", "0", 0.5), ("1", "1", 1.5), ("T", "T-1", 3.7)):
        nodes |= {f"x{key}": Node((x, 2.6), f"x[{t}]", "given", kept=True), f"u{key}": Node((x, 1.6), f"u[{t}]", kept=True)}
    edges = [Edge(f"x{key}", f"u{key}", "", "$1$") for key in "01T"]
    edges += [
        Edge("u0", "u1", "", DECAY, side="below"),
        Edge("u1", "between", "", DECAY, side="below"),
        Edge("between", "uT", "", DECAY, side="below"),
        Edge("uT", "z", "read", "$1$"),
    ]
    return Graph(nodes, edges, (4.4, 3.0))


def _votes() -> Graph:
    nodes = {"z": Node((3.6, 1.6), "z_{bc}", "given"), "between": Node((1.0, 1.3), r"$\vdots$", "word")}
    mean = r"$1/(T\,M)$"
    places = (("0", "s_n[0,b]", 2.75), ("1", "s_n[1,b]", 1.95), ("T", "s_n[T-1,b]", 0.45))
    nodes |= {key: Node((1.0, y), name, "spike") for key, name, y in places}
    sides = {"0": "above", "1": "above", "T": "below"}
    return Graph(nodes, [Edge(key, "z", mean, mean, "spike", side=sides[key]) for key in nodes if key in sides], (4.4, 3.2))


def _thresholds() -> Graph:
    nodes = {"r": Node((0.35, 1.6), "r", "given"), "p": Node((1.45, 1.6), r"\theta_p")}
    edges = [Edge("r", "p", "$c$", r"$c'(r)$", along=0.48)]
    for n, y in (("1", 2.8), ("2", 1.6), ("N", 0.4)):
        nodes |= {
            f"theta{n}": Node((2.6, y), rf"\theta_{{{n}}}", kept=True),
            f"s{n}": Node((3.9, y), f"s_{{{n}}}[t]", "spike", kept=True),
        }
        side = "above" if n == "2" else ("left" if n == "1" else "below")
        edges += [
            Edge("p", f"theta{n}", "", "$1$", side=side, along=0.55),
            Edge(f"theta{n}", f"s{n}", "all $t, b$", MINUS_PSI, "jump"),
        ]
    return Graph(nodes, edges, (4.4, 3.2))


def _linear() -> Graph:
    nodes = {"W": Node((2.2, 1.6), "W", "given", kept=True), "bias": Node((3.75, 1.6), r"\mathit{bias}", "given")}
    edges = []
    for tag, t, y in (("", "t", 2.75), ("1", "t+1", 0.45)):
        nodes |= {
            f"x{tag}": Node((0.6, y), f"x[{t}]", "given", kept=True),
            f"y{tag}": Node((3.75, y), f"y[{t}]"),
        }
        edges += [
            Edge(
                f"x{tag}",
                f"y{tag}",
                r"$\cdot\, W$",
                r"$\cdot\, W^{\mathsf{T}}$",
                side="below" if tag else "above",
                along=0.45,
            ),
            Edge("W", f"y{tag}", "", rf"$x[{t}]^{{\mathsf{{T}}}}\cdot$", side="left", along=0.5),
            Edge("bias", f"y{tag}", "", "$1$"),
        ]
    return Graph(nodes, edges, (4.4, 3.2))


def _conv() -> Graph:
    nodes = {
        "x": Node((0.4, 1.0), "x", "given", kept=True),
        "U": Node((2.1, 1.0), "U"),
        "W": Node((2.9, 2.2), "W", "given", kept=True),
        "bias": Node((3.9, 2.2), r"\mathit{bias}", "given"),
        "y": Node((3.9, 1.0), "y"),
    }
    edges = [
        Edge("x", "U", "unfold", "fold: add up"),
        Edge("U", "y", r"$W\,\cdot$", r"$W^{\mathsf{T}}\cdot$", side="below"),
        Edge("W", "y", "", r"$\cdot\,U^{\mathsf{T}}$", side="left", along=0.5),
        Edge("bias", "y", "", "sum", side="right"),
    ]
    return Graph(nodes, edges, (4.4, 2.6))


def _norm() -> Graph:
    nodes = {
        "x": Node((0.4, 1.6), "x_m", "given"),
        "mu": Node((1.5, 2.8), r"\mu"),
        "var": Node((1.5, 0.4), r"\sigma^2"),
        "hat": Node((2.7, 1.6), r"\hat{x}_m", kept=True),
        "y": Node((3.95, 1.6), "y_m"),
        "gamma": Node((3.3, 2.8), r"\gamma", "given", kept=True),
        "beta": Node((4.05, 2.8), r"\beta", "given"),
    }
    edges = [
        Edge("x", "mu", "mean", "$1/n$", side="left"),
        Edge("x", "var", "variance", r"$2\,(x_m-\mu)/n$", side="left", along=0.55),
        Edge("x", "hat", "", r"$\iota$"),
        Edge("mu", "hat", "", r"$-\iota$", side="right", along=0.4),
        Edge("var", "hat", "", r"$-\iota^2\,\hat{x}_m/2$", side="right", along=0.45),
        Edge("hat", "y", r"$\gamma\,\alpha$", r"$\gamma\,\alpha$", side="below"),
        Edge("gamma", "y", "", r"$\alpha\,\hat{x}_m$", side="left", along=0.4),
        Edge("beta", "y", "", "$1$", side="right"),
    ]
    return Graph(nodes, edges, (4.4, 3.2))


def _pool() -> Graph:
    nodes = {
        "max": Node((0.5, 1.7), r"y_{\max}", back=r"d_{y}"),
        "mean": Node((3.9, 1.7), r"y_{\mathrm{mean}}", back=r"d_{y}"),
    }
    edges = []
    for key, name, y in (("1", "x_1", 2.95), ("a", "x_a", 2.1), ("3", "x_3", 1.25), ("4", "x_4", 0.4)):
        nodes[key] = Node((2.2, y), name, "given")
        chosen = key == "a"
        if chosen:
            edges.append(Edge(key, "max", "largest", "$1$", side="above"))
        edges.append(Edge(key, "mean", "", r"$1/k^2$", side="above" if y > 1.7 else "below", along=0.45))
    return Graph(nodes, edges, (4.4, 3.35))


def _dropout() -> Graph:
    nodes, edges = {}, []
    for tag, t, y in (("", "t", 1.75), ("1", "t+1", 0.4)):
        nodes |= {
            f"x{tag}": Node((0.6, y), f"x[{t}]", "given"),
            f"m{tag}": Node((2.2, y + 0.75), f"m[{t}]", "given", kept=True),
            f"y{tag}": Node((3.8, y), f"y[{t}]"),
        }
        edges += [
            Edge(f"x{tag}", f"y{tag}", "", rf"$m[{t}]$", side="above"),
            Edge(f"m{tag}", f"y{tag}", "", None),
        ]
    return Graph(nodes, edges, (4.4, 2.9))


def _losses() -> Graph:
    nodes = {
        "z": Node((0.55, 1.75), "z_{bc}", "given"),
        "y": Node((2.2, 2.45), "y_{bc}", "given"),
        "L": Node((3.9, 1.75), "L", back="1"),
        "s": Node((0.6, 0.35), "s_n[t,b]", "spike"),
        "r": Node((1.8, 0.35), "r_n"),
        "q": Node((2.75, 0.35), "q_n"),
        "P": Node((4.0, 0.35), "P", back="1"),
    }
    edges = [
        Edge("z", "L", "loss", r"$\dfrac{2}{BC}(z-y)$  or  $\dfrac{1}{B}(p-y)$", side="below"),
        Edge("y", "L", "", None),
        Edge("s", "r", "mean", r"$\dfrac{1}{TB}$", along=0.55),
        Edge("r", "q", "", "$1$ | $0$"),
        Edge("q", "P", "square", r"$\dfrac{2\,\mathit{weight}}{N}q_n$"),
    ]
    return Graph(nodes, edges, (4.4, 2.7))


def _surrogates() -> Graph:
    nodes = {
        "u": Node((0.5, 1.6), "u", kept=True),
        "theta": Node((0.5, 0.4), r"\theta", "given", kept=True),
        "x": Node((1.9, 1.0), r"x", back="g"),
        "s": Node((3.8, 1.0), "s", "spike"),
    }
    edges = [
        Edge("u", "x", "$+$", "$1$"),
        Edge("theta", "x", "$-$", "$-1$", side="below"),
        Edge("x", "s", "step $H(x)$", r"$\mathit{slope}(x)$", "jump"),
    ]
    return Graph(nodes, edges, (4.4, 2.0))


GRAPHS = {
    "lif": _lif(),
    "resets": _resets(),
    "recurrent": _recurrent(),
    "current_lif": _current_lif(),
    "neurons": _neurons(),
    "readouts": _readouts(),
    "votes": _votes(),
    "thresholds": _thresholds(),
    "linear": _linear(),
    "conv": _conv(),
    "norm": _norm(),
    "pool": _pool(),
    "dropout": _dropout(),
    "losses": _losses(),
    "surrogates": _surrogates(),
}
