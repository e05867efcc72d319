// What machines cost an hour, who said so and when: what is not known is not spent.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, money, plural } from '../format.js'
import { Ago, Empty, Fault, Loading, Section } from '../parts.jsx'
import { useLive } from '../poll.js'

const SHOWN = 100

const wordsOf = (price) => `${price.type} ${price.zone} ${price.region} ${price.market} ${price.source} ${price.provider}`.toLowerCase()

// The block of an offer that this price is of; an offer is called type/zone/market.
function blockOf(price, pools) {
  const parts = [price.type, price.zone || price.region]
  const fits = ({ offering }) => offering.startsWith(`${price.type}/`) && parts.every((part) => offering.split('/').includes(part)) && (!/spot|on-demand/.test(offering) || offering.includes(price.market))
  return pools.filter((pool) => pool.provider === price.provider).flatMap((pool) => pool.blocks || []).find(fits)
}

function Row({ price, block }) {
  const per = price.cpus && price.price_micro ? money(price.price_micro / price.cpus, price.currency, 4) : ''
  return (
    <tr>
      <th scope="row">{price.type}</th>
      <td>{price.zone || price.region}</td>
      <td>{price.market}</td>
      <td class="number">
        {!!price.price_micro && money(price.price_micro, price.currency, 4)}
        {price.unknown && <div class="warn">not known: {price.unknown}</div>}
        {block && <div class="warn" title={block.reason}>blocked: {block.kind}</div>}
      </td>
      <td class="number part">{per}</td>
      <td class="number part">{price.cpus ? `${count(price.cpus)} cpus` : ''}</td>
      <td class="number part">{price.memory_bytes ? bytes(price.memory_bytes) : ''}</td>
      <td class="part">{price.source}</td>
      <td>
        <Ago at={price.as_of} />
      </td>
    </tr>
  )
}

export function Prices() {
  const [text, setText] = useState('')
  const { data, error } = useLive('prices', api.prices, 30)
  const pools = useLive('pools', api.pools, 3).data || []
  const words = text.toLowerCase().split(/\s+/).filter(Boolean)
  const found = (data || []).filter((price) => words.every((word) => wordsOf(price).includes(word)))
  const search = data?.length > 0 && <input type="search" placeholder="Find a type, zone or market" aria-label="Find prices" value={text} onInput={(event) => setText(event.target.value)} />
  return (
    <Section name="prices" title="Prices" lead={search} aside={data?.length > 0 && plural(found.length, 'price')}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && (
        <Empty>
          No prices are kept. A pool's own <code>price</code>, what its provider says, and <code>coalition prices import</code> are where they come from.
        </Empty>
      )}
      {found.length > 0 && (
        <table class="prices">
          <thead>
            <tr>
              <th scope="col">Type</th>
              <th scope="col">Where</th>
              <th scope="col">Market</th>
              <th scope="col" class="number">An hour</th>
              <th scope="col" class="number part">A cpu's hour</th>
              <th scope="col" class="number part">Size</th>
              <th scope="col" class="number part">Memory</th>
              <th scope="col" class="part">By</th>
              <th scope="col">As of</th>
            </tr>
          </thead>
          <tbody>
            {found.slice(0, SHOWN).map((price) => (
              <Row key={`${price.provider} ${price.region} ${price.zone} ${price.type} ${price.market} ${price.source}`} price={price} block={blockOf(price, pools)} />
            ))}
          </tbody>
        </table>
      )}
      {found.length > SHOWN && <p class="hint">{plural(found.length - SHOWN, 'more price')}: find what you look for by its words.</p>}
    </Section>
  )
}
