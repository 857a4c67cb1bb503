// A run over time: a bar for each visit of a step, with its tries.
import { now } from "./api.js";
import { brief, duration } from "./ages.js";
import { Component, html } from "./html.js";
import { plain } from "./ui.js";

const TICKS = 4;
const percent = (part) => `${(100 * Math.max(0, Math.min(1, part))).toFixed(3)}%`;

export class Timeline extends Component {
  componentDidMount() {
    // A bar that grows; nothing else of the page is drawn anew.
    this.timer = setInterval(() => {
      if (!this.props.run.ended_at && !document.hidden) this.setState({});
    }, 1000);
  }

  componentWillUnmount() {
    clearInterval(this.timer);
  }

  render({ run }) {
    const begin = Date.parse(run.started_at ?? run.created_at);
    const end = run.ended_at ? Date.parse(run.ended_at) : now();
    const whole = Math.max(end - begin, 1);
    const at = (moment) => (Date.parse(moment) - begin) / whole;
    const depth = depths(run.steps);
    return html`<div class="timeline" role="group" aria-label="Timeline of the steps">
      ${run.steps.map((step) => {
        const from = at(step.dispatched_at ?? step.started_at ?? run.started_at ?? run.created_at);
        const to = step.ended_at ? at(step.ended_at) : 1;
        const took = duration(((step.ended_at ? Date.parse(step.ended_at) : end) - (begin + from * whole)) / 1000);
        const tries = step.attempts.filter((one) => one.at);
        const about = `${step.id}, ${step.state}, ${took}${step.redispatched ? `, sent again ${step.redispatched} times` : ""}`;
        return html`<div class=${`line s-${step.state}`} key=${step.key}>
          <span class="what" style=${{ paddingLeft: `${Math.min(depth.get(step.key) ?? 0, 4) * 12}px` }} title=${plain(step.key)}><bdi>${plain(step.id)}</bdi>${step.visit > 1 ? html`<span class="muted"> ${step.visit}</span>` : null}</span>
          <svg class="lane" role="img" aria-label=${plain(about)}>
            <title>${plain(about)}</title>
            ${[1, 2, 3].map((tick) => html`<line class="mark" x1=${percent(tick / TICKS)} x2=${percent(tick / TICKS)} y1="0" y2="100%" />`)}
            <rect class=${step.ended_at ? "bar" : "bar open"} x=${percent(from)} width=${percent(Math.max(to - from, 0.004))} y="6" height="12" rx="3" />
            ${tries.map((one) => html`<line class=${one.outcome === "ok" ? "try" : "try failed"} x1=${percent(at(one.at))} x2=${percent(at(one.at))} y1="3" y2="21"><title>${plain(`${one.outcome}${one.node ? ` on ${one.node}` : ""}`)}</title></line>`)}
          </svg>
          <span class="took">${took}${step.redispatched > 0 && html` <span class="again" title="It was handed to a node again">again ×${step.redispatched}</span>`}</span>
        </div>`;
      })}
      <div class="line axis" aria-hidden="true"><span class="what">marks are tries</span><span class="scale">${Array.from({ length: TICKS + 1 }, (_, tick) => html`<span>${tick === 0 ? "0" : brief((whole * tick) / TICKS / 1000)}</span>`)}</span><span class="took"></span></div>
    </div>`;
  }
}

function depths(steps) {
  const parent = new Map(steps.map((step) => [step.key, step.parent]));
  const depth = new Map();
  for (const { key } of steps) {
    let deep = 0, at = parent.get(key);
    while (at && deep < 8) {
      deep += 1;
      at = parent.get(at);
    }
    depth.set(key, deep);
  }
  return depth;
}
