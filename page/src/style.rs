//! The one style of all our pages.

/// Colours by their use, light and dark, none below 4.5:1 on either background (tested); tables and pictures that scroll rather than widen
/// the page, with a shadow at the side on which more is to be seen.
pub const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1c2330;--bg:#fff;--soft:#5b6575;--line:#d9dee6;--card:#f5f7fa;--a:#2a66a5;--b:#b04a10;--c:#5f6876;--warn:#a94c0c;--shade:#0003}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ef;--bg:#14181f;--soft:#a3adbd;--line:#343c49;--card:#1d232d;--a:#7fb3e8;--b:#f0a06a;--c:#9aa3b1;--warn:#f09a5b;--shade:#fff3}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 auto;padding:1.5rem;max-width:68rem;overflow-wrap:break-word}
h1{font-size:1.4rem;margin:0 0 .2rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .4rem}h3{font-size:1rem;margin:1.2rem 0 .2rem}h2 small{color:var(--soft);font-weight:400}
p.note,.meta,.caption{color:var(--soft);margin:.2rem 0 .6rem;font-size:.92rem}
a{color:var(--a)}.verdict{background:var(--card);border-left:4px solid var(--a);padding:.8rem 1rem;border-radius:4px}.verdict p{margin:.3rem 0}
.verdict p:first-child{font-size:1.15rem;font-weight:600}.warning{background:var(--card);border-left:4px solid var(--warn);padding:.7rem 1rem;border-radius:4px;margin:1rem 0}
.warning ul{margin:.2rem 0;padding-left:1.2rem}.warning p{margin:0}ul.warning{padding-left:2rem}svg.own{max-width:none}
.scroll{overflow-x:auto;max-width:100%;background:linear-gradient(90deg,var(--bg) 30%,transparent) 0 0/2.5rem 100% no-repeat local,linear-gradient(270deg,var(--bg) 30%,transparent) 100% 0/2.5rem 100% no-repeat local,linear-gradient(90deg,var(--shade),transparent) 0 0/.8rem 100% no-repeat,linear-gradient(270deg,var(--shade),transparent) 100% 0/.8rem 100% no-repeat}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600;vertical-align:bottom}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}td.w{overflow-wrap:anywhere;min-width:7rem}.est{white-space:normal}.ci{white-space:nowrap}
.keep table{width:auto}.keep td:first-child,.keep th:first-child{position:sticky;left:0;background:var(--bg);min-width:min(9.5rem,30vw)}details+.caption{margin-top:1.4rem}.word{white-space:nowrap;margin-right:.8em}.word small,td small{color:var(--soft)}
ul.key{list-style:none;padding:0;margin:.4rem 0 1rem;font-size:.93rem}ul.key li{margin:.25rem 0}ul.key svg{width:.8rem;height:.8rem;margin-right:.4rem;overflow:visible}summary{cursor:pointer;color:var(--soft);margin:.4rem 0;font-size:.92rem}nav{font-size:.93rem;margin:1rem 0}nav a{margin-right:1rem;display:inline-block}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem 2rem;align-items:start}.figures.many{grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr))}
figure{margin:.6rem 0;min-width:0}figcaption{font-size:.92rem;color:var(--soft);margin-bottom:.4rem}figcaption b{color:var(--fg);display:block}
svg{max-width:100%;height:auto}svg.chart{width:100%;max-width:32rem;display:block}svg.small{width:100%;max-width:20rem;display:block}svg text{fill:var(--fg);font-size:11px}svg.chart text{font-size:13px;paint-order:stroke;stroke:var(--bg);stroke-width:4px}svg text.soft{fill:var(--soft)}svg.small text{stroke:none}svg .soft{stroke:var(--line);fill:none}
svg .a{stroke:var(--a);fill:none;stroke-width:2}svg .b{stroke:var(--b);fill:none;stroke-width:2}svg .da{fill:var(--a)}svg .db{fill:var(--b)}
svg .trained{stroke:var(--a);fill:var(--a)}svg .untrained{stroke:var(--b);fill:var(--b)}svg .control{stroke:var(--c);fill:var(--c)}svg line.trained,svg line.untrained,svg line.control{stroke-width:1.5}
svg .ring{fill:var(--bg);stroke-width:2}svg .open{fill:none;stroke-width:1.5}svg .beside{stroke:var(--soft);stroke-dasharray:4 3}svg .band{fill:var(--card)}
svg .dots{fill:none;stroke-width:5;stroke-linecap:round;stroke-opacity:.35}svg .second{stroke-dasharray:4 3}
svg rect[class^=is]{stroke:var(--bg)}.is-right{fill:var(--a)}.is-tied{fill:color-mix(in srgb,var(--a) 72%,var(--bg))}.is-next{fill:color-mix(in srgb,var(--a) 42%,var(--bg))}.is-nothing{fill:color-mix(in srgb,var(--c) 30%,var(--bg))}.is-near{fill:color-mix(in srgb,var(--b) 45%,var(--bg))}.is-other{fill:var(--b)}
th.i,td.i{text-align:center;min-width:3rem;padding:.2rem .25rem;border-left:1px solid var(--line);overflow-wrap:normal}td.i small{display:block;color:inherit;font-size:.74rem;line-height:1.2}.sum td{font-weight:600}
td.hit{background:color-mix(in srgb,var(--a) 32%,var(--bg))}td.some,td.next{background:color-mix(in srgb,var(--a) 14%,var(--bg))}td.miss{background:color-mix(in srgb,var(--b) 14%,var(--bg))}
@media(max-width:40rem){body{padding:.8rem}}";

#[cfg(test)]
mod tests {
    use super::STYLE;

    /// Relative luminance of `#rgb` or `#rrggbb`, as WCAG 2 has it.
    fn luminance(colour: &str) -> f64 {
        let digits: Vec<char> = colour.trim_start_matches('#').chars().collect();
        let part = |i: usize| {
            let hex: String =
                if digits.len() == 3 { vec![digits[i]; 2] } else { digits[2 * i..2 * i + 2].to_vec() }
                    .iter()
                    .collect();
            let c = f64::from(u8::from_str_radix(&hex, 16).unwrap()) / 255.0;
            if c <= 0.03928 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
    }

    #[test]
    fn what_is_written_or_drawn_can_be_told_from_its_background() {
        let themes: Vec<&str> = STYLE.lines().filter(|l| l.contains("--fg:")).collect();
        assert_eq!(themes.len(), 2);
        for theme in themes {
            let of = |name: &str| {
                let (_, rest) = theme.split_once(&format!("--{name}:")).unwrap();
                luminance(rest.split([';', '}']).next().unwrap())
            };
            for background in ["bg", "card"] {
                for name in ["fg", "soft", "a", "b", "c", "warn"] {
                    let (x, y) = (of(name), of(background));
                    let contrast = (x.max(y) + 0.05) / (x.min(y) + 0.05);
                    assert!(contrast >= 4.5, "{name} on {background}: {contrast:.2} in {theme}");
                }
            }
        }
    }
}
