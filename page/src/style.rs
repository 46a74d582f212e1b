//! The one style of all our pages.

/// Colours by their use, light and dark; tables that scroll rather than widen the page; pictures that shrink with it.
pub const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1c2330;--bg:#fff;--soft:#5b6575;--line:#d9dee6;--card:#f5f7fa;--a:#2f6fb2;--b:#c2571a;--c:#6b7482;--warn:#b4540f}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ef;--bg:#14181f;--soft:#a3adbd;--line:#343c49;--card:#1d232d;--a:#7fb3e8;--b:#f0a06a;--c:#9aa3b1;--warn:#f09a5b}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 auto;padding:1.5rem;max-width:68rem}
h1{font-size:1.4rem;margin:0 0 .2rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .4rem}p.note,.meta,.caption{color:var(--soft);margin:.2rem 0 .6rem;font-size:.92rem}
a{color:var(--a)}.verdict{background:var(--card);border-left:4px solid var(--a);padding:.8rem 1rem;border-radius:4px}.verdict p{margin:.3rem 0}
.verdict p:first-child{font-size:1.15rem;font-weight:600}.warning{background:var(--card);border-left:4px solid var(--warn);padding:.7rem 1rem;border-radius:4px}
.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.w{overflow-wrap:anywhere}.word{white-space:nowrap;margin-right:.8em}
.word small{color:var(--soft)}svg{max-width:100%;height:auto}svg text{fill:var(--fg);font-size:11px}svg .soft{stroke:var(--line);fill:none}
svg .a{stroke:var(--a);fill:none;stroke-width:2}svg .b{stroke:var(--b);fill:none;stroke-width:2}svg .da{fill:var(--a)}svg .db{fill:var(--b)}
@media(max-width:40rem){body{padding:.8rem}}";
